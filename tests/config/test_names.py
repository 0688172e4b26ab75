"""A name of a run is a valid file name on every system, and different choices never share one."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config import load
from harness.errors import UserError
from harness.study.names import MAX_ENTRY, MAX_LABEL, default_label, shorten

NUMBERS = st.integers(-(2**31), 2**31) | st.floats(allow_nan=False, allow_infinity=False)
LISTS = st.lists(st.sampled_from([1, 2, 11, 128]), min_size=1, max_size=60)
LONGEST_SUFFIX = ".lock"


@given(st.dictionaries(st.sampled_from("abc"), NUMBERS | LISTS | st.text(), min_size=1))
def test_a_label_is_short_and_safe(options):
    label = default_label("sliding_window", options)
    assert re.fullmatch(rf"[A-Za-z0-9._+]{{1,{MAX_LABEL}}}", label)
    assert label == default_label("sliding_window", options)


@given(LISTS | NUMBERS, LISTS | NUMBERS)
def test_other_values_have_another_label(a, b):
    if a != b:
        assert default_label("v", {"option": a}) != default_label("v", {"option": b})


def test_a_list_is_written_by_run_lengths():
    assert default_label("w", {"window": [128] * 48}) == "w128x48"
    assert default_label("w", {"window": [4, 4, 16, 16, 16]}) == "w4.4.16x3"


@given(st.text("ab", min_size=1, max_size=2 * MAX_ENTRY), st.text("ab", min_size=1))
def test_shortened_names_stay_different(text, other):
    assert len(shorten(text, MAX_ENTRY)) <= MAX_ENTRY
    assert (shorten(text, MAX_ENTRY) == shorten(text + other, MAX_ENTRY)) is False


def test_the_longest_names_are_those_of_files(write_study):
    label = "l" * 40
    rules = f"""
[init]
from_run = {{ train = {{ steps = 2 }} }}
[[include]]
positional = {{ variant = "rope", label = "{label}" }}
attention = {{ variant = "mha", label = "{label}" }}
norm = {{ variant = "rmsnorm", label = "{label}" }}
mlp = {{ variant = "relu2", label = "{label}" }}
parallelism = {{ variant = "ddp", label = "{label}" }}
[[include]]
positional = {{ variant = "rope", label = "{label}" }}
attention = {{ variant = "mha", label = "{label}" }}
norm = {{ variant = "rmsnorm", label = "{label}" }}
mlp = {{ variant = "relu2", label = "{label}" }}
parallelism = {{ variant = "ddp", label = "{label[:-1]}" }}
"""
    seeds = ("seeds = [0, 1]", "seeds = [999998, 999999]\ncross_seeds = true")
    study = load(write_study(seeds, more=rules))
    run_ids = [spec.run_id for spec in study.runs]
    assert len(set(run_ids)) == len(run_ids)
    assert max(map(len, run_ids)) <= 128, "trackers of experiments allow no more"
    assert max(len(run_id + LONGEST_SUFFIX) for run_id in run_ids) <= 255


def test_labels_that_differ_in_case_only_are_refused(write_study):
    """Their runs would share a folder on a file system that ignores case."""
    two = (
        '"rope"]',
        '{ variant = "rope", label = "x" }, { variant = "rope", theta = 5.0, label = "X" }]',
    )
    with pytest.raises(UserError, match="the labels 'x' and 'X' differ in case only"):
        load(write_study(two))
