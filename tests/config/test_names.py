"""A name of a run is a valid file name on every system, and different choices never share one."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config import load
from harness.config.axes import Axes
from harness.errors import UserError
from harness.study.names import (
    MAX_ENTRY,
    MAX_LABEL,
    MAX_TITLE,
    default_label,
    default_title,
    shorten,
)
from variants import registry
from variants.base import AXES, ModelShape

SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=16, seq_len=16, vocab_size=32)

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


TITLES = {
    ("RoPE", ()): "RoPE",
    ("RoPE", ("theta", "fraction")): "RoPE theta=5000, fraction=0.5",
    ("MHA", ("on",)): "MHA on",
    ("MHA", ("off",)): "MHA no off",
    ("window {window}", ("window",)): "window 4/16×3",
    ("GQA-{n_kv_head}", ()): "GQA-2",
    ("GQA-{n_kv_head}", ("n_kv_head", "theta")): "GQA-2 theta=5000",
    ("", ("theta",)): "a{b theta=5000",
}


@pytest.mark.parametrize(("form", "given"), TITLES)
def test_a_title_spells_the_options_it_lacks(form, given):
    options = {
        "theta": 5000.0,
        "fraction": 0.5,
        "on": True,
        "off": False,
        "window": [4, 16, 16, 16],
        "n_kv_head": 2,
    }
    assert default_title(form, "a{b", options, given) == TITLES[form, given]


@given(st.lists(st.integers(0, 9999), min_size=1, max_size=60), st.integers(0, 9999))
def test_a_long_title_is_cut_and_stays_different(values, other):
    title = default_title("{w}", "v", {"w": values}, ["w"])
    assert len(title) <= MAX_TITLE
    assert title != default_title("{w}", "v", {"w": [*values, other]}, ["w"])


def choices_of(draw, axis):
    """Return elements of an axis, which may differ in few of their options only."""
    elements = []
    for _ in range(draw(st.integers(2, 4))):
        name = draw(st.sampled_from([n for n in registry.files(axis) if n in OPTIONS[axis]]))
        options = draw(st.fixed_dictionaries({}, optional=OPTIONS[axis][name]))
        elements.append({"variant": name, **REQUIRED.get(name, {}), **options})
    return elements


WINDOWS = st.lists(st.sampled_from([4, 8]), min_size=2, max_size=2)
REQUIRED = {"gqa": {"n_kv_head": 2}, "sliding_window": {"window": 4}}
FLAG = {"qk_norm": st.booleans()}
OPTIONS = {
    "positional": {
        "learned": {},
        "none": {},
        "rope": {"theta": st.sampled_from([1e4, 5e3]), "interleaved": st.booleans()},
    },
    "attention": {
        "mha": FLAG,
        "mqa": FLAG,
        "gqa": {"n_kv_head": st.sampled_from([1, 2])} | FLAG,
        "sliding_window": {"window": st.sampled_from([4, 8]) | WINDOWS} | FLAG,
    },
    "parallelism": {
        "single": {},
        "ddp": {"nproc": st.sampled_from([2, 4]), "bucket_mb": st.sampled_from([5, 25])},
        "fsdp": {"nproc": st.sampled_from([2, 4]), "reshard": st.booleans()},
    },
}


@pytest.mark.parametrize("axis", OPTIONS)
@settings(max_examples=25)
@given(data=st.data())
def test_choices_of_an_axis_have_different_titles(axis, data):
    axes = Axes("study.toml", [], shape=SHAPE)
    axes.read({axis: choices_of(data.draw, axis)})
    if not axes.problems:
        titles = [choice.title for choice in axes.choices[axis]]
        assert len(set(titles)) == len(titles)
        assert all(titles)


@pytest.mark.parametrize("name", [f"{axis}/{n}" for axis in AXES for n in registry.files(axis)])
def test_every_shipped_variant_has_a_title(name):
    axis, _, variant = name.partition("/")
    assert registry.own_title(registry.load(axis, variant)), "reports show the name of its file"


def test_a_label_of_the_user_is_the_title():
    axes = Axes("study.toml", [], shape=SHAPE)
    level = {"label": "S", "model.n_layer": 2}
    axes.read(
        {
            "positional": [
                {"variant": "rope", "label": "mine"},
                {"variant": "rope", "theta": 5.0},
                "learned",
            ],
            "train.lr": [1e-3, {"value": 3e-3, "label": "high"}],
            "size": [level, level | {"label": "M", "model.n_layer": 4}],
        }
    )
    titles = {axis: [c.title for c in found] for axis, found in axes.choices.items()}
    assert titles["positional"] == ["mine", "RoPE theta=5", "learned"]
    assert titles["train.lr"] == ["lr 0.001", "high"]
    assert titles["size"] == ["S", "M"]


def test_a_label_that_is_another_title_makes_both_labels():
    axes = Axes("study.toml", [], shape=SHAPE)
    axes.read(
        {
            "positional": [
                {"variant": "learned", "label": "RoPE"},
                {"variant": "rope", "theta": 5.0},
                "rope",
            ]
        }
    )
    titles = [choice.title for choice in axes.choices["positional"]]
    assert len(set(titles)) == 3
