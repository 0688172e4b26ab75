"""If these failed, verdicts would compare the wrong runs, or correct for the wrong family."""

import numpy as np
import pandas as pd
import pytest

from harness.analysis import dataset, families
from harness.analysis.hypotheses import test_hypotheses
from harness.analysis.pairs import pair_of
from harness.results.records import EquivalenceMargin, LaunchRecord

test_hypotheses.__test__ = False  # it is the function under test


def test_parallelisms_that_repeat_a_loss_are_one_comparison(fake, read_study):
    """Else bitwise equal runs would make every p-value larger, or the noise of effects smaller."""
    study = read_study(fake)
    tests = test_hypotheses(study)
    losses = tests["val_loss"]
    differences = {}
    for entry in study.entries:
        pair = pair_of(study, entry, "val_loss")
        differences[entry.label] = list(pair.differences().values()) if pair else []
    single = {
        label: values
        for label, values in differences.items()
        if label.endswith("single") and values
    }
    assert len(single) == 5
    values = {entry.label: [run.final_loss for run in entry.done] for entry in study.entries}
    family = pd.DataFrame({label: values[label] for label in ("learned-mha-single", *single)})
    expected = families.test_family(family, "learned-mha-single", None).results
    assert {label: losses.entries[label] for label in expected} == expected
    for label in single:
        ddp2 = label.replace("single", "ddp2")
        assert differences[ddp2] == differences[label]
        assert ddp2 not in losses.entries
    assert losses.design.runs == 6 * 3
    assert tests["tokens_per_s"].design.runs == 18 * 3


def test_planted_effects_are_found_with_their_sign(fake, read_study):
    fake.seeds = tuple(range(8))
    tests = test_hypotheses(read_study(fake))
    assert tests["val_loss"].entries["rope-mha-single"].verdict == "better"
    on_loss = {tuple(effect.levels.values()): effect for effect in tests["val_loss"].main_effects}
    assert on_loss["rope",].verdict == "better"
    assert on_loss["rope",].estimate < 0
    on_speed = {
        tuple(effect.levels.values()): effect for effect in tests["tokens_per_s"].main_effects
    }
    assert on_speed["ddp2",].verdict == "worse"
    assert np.exp(on_speed["ddp2",].estimate) == pytest.approx(0.62, rel=0.1)


def test_a_diverging_entry_is_not_tested(fake, read_study):
    tests = test_hypotheses(read_study(fake), diverging={"rope-mha-ddp2"})
    assert all("rope-mha-ddp2" not in metric.entries for metric in tests.values())


def test_the_margin_is_that_of_the_newest_launch(fake):
    fake.write()
    for settings_hash, val_loss in (("c0ffee", 0.5), ("c0ffee", 2.0), ("other", 9.0)):
        margin = EquivalenceMargin(val_loss=val_loss)
        launch = LaunchRecord(order=[], settings_hash=settings_hash, equivalence_margin=margin)
        fake.store.record_launch("tiny", launch)
    study = dataset.read(fake.store, "tiny")
    assert study.margins == {"val_loss": 2.0}
    tested = test_hypotheses(study)["val_loss"].entries.values()
    assert {result.verdict for result in tested} == {"equivalent"}


def test_one_seed_gets_no_verdict(fake, read_study):
    fake.seeds = (0,)
    tested = test_hypotheses(read_study(fake))["val_loss"].entries.values()
    assert all(result.verdict is None for result in tested)
