"""If these failed, an entry could pass for better by more than its noise excludes."""

import math

import numpy as np
import pandas as pd
import pytest

from harness.analysis import dataset
from harness.analysis.families import test_family
from harness.analysis.hypotheses import test_hypotheses
from harness.analysis.superiority import judge, superior
from harness.results.records import LaunchRecord, Superiority

test_family.__test__ = False  # the functions under test
test_hypotheses.__test__ = False
THRESHOLD = 0.005


@pytest.mark.parametrize(
    ("gain", "answer"),
    [
        ((0.006, 0.02), "yes"),
        ((0.004, 0.02), "unresolved"),
        ((-0.02, 0.02), "unresolved"),
        ((-0.02, 0.004), "no"),
        ((-0.02, -0.006), "no"),
        ((THRESHOLD, THRESHOLD), "no"),
        (None, "unresolved"),
    ],
)
def test_the_whole_interval_decides(gain, answer):
    lower = gain and (-gain[1], -gain[0])
    assert superior(lower, THRESHOLD, lower_is_better=True) == answer
    assert superior(gain, THRESHOLD, lower_is_better=False) == answer


@pytest.mark.parametrize("lower_is_better", [True, False])
def test_what_is_superior_is_better(lower_is_better):
    rng = np.random.default_rng(0)
    answers = set()
    for _ in range(100):
        values = pd.DataFrame({name: 0.01 * rng.normal(rng.normal(), 0.5, 4) for name in "abcd"})
        tests = test_family(values, "a", THRESHOLD, lower_is_better).results
        for result in judge(tests, dict.fromkeys("bcd", THRESHOLD), lower_is_better).values():
            answers.add(result.superior)
            assert result.superior != "yes" or result.verdict == "better"
            assert result.superior != "no" or result.difference.ci95 is not None
    assert answers == {"yes", "no", "unresolved"}


def test_the_newest_launch_states_the_threshold_of_each_metric(fake):
    """The threshold of a ratio is that of its logarithm, and the other settings' count for none."""
    fake.axes["parallelism"] = ["single"]
    fake.seeds = tuple(range(8))
    fake.write()
    for settings_hash, val_loss in (("c0ffee", 9.0), ("c0ffee", 0.01), ("other", 9.0)):
        stated = Superiority(val_loss=val_loss, tokens_per_s=0.5)
        launch = LaunchRecord(order=[], settings_hash=settings_hash, superiority=stated)
        fake.store.record_launch("tiny", launch)
    tests = test_hypotheses(dataset.read(fake.store, "tiny"))
    assert tests["val_loss"].superiority == 0.01
    assert tests["tokens_per_s"].superiority == math.log(1.5)
    assert tests["val_loss"].entries["rope-mha-single"].superior == "yes"
    assert tests["val_loss"].entries["learned-gqa2-single"].superior == "no"
    assert tests["tokens_per_s"].entries["rope-mha-single"].superior == "no"
    assert {result.superior for result in tests["peak_memory"].entries.values()} == {None}


def test_pooled_differences_are_judged_too(asked_in_sizes):
    asked_in_sizes.write()
    stated = Superiority(val_loss=0.07)
    launch = LaunchRecord(
        order=[], settings_hash="c0ffee", superiority=stated, compare=asked_in_sizes.compare
    )
    asked_in_sizes.store.record_launch("tiny", launch)
    pooled = test_hypotheses(dataset.read(asked_in_sizes.store, "tiny"))["val_loss"].pooled
    assert {result.asked: result.superior for result in pooled} == {"rope": "yes", "alibi": "no"}
