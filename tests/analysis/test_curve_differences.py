"""If these failed, a band along training would contradict the verdict, or promise too much."""

import math

import numpy as np
import pytest
from gallery_results import GALLERY

from harness.analysis import curve_differences, dataset
from harness.analysis.curve_differences import find_differences
from harness.analysis.families import half_widths
from harness.analysis.summary import summarize
from harness.report.charts.curves import counts_tokens
from harness.results.records import LaunchRecord, LookPlan


def differences(store, name):
    study = dataset.read(store, name)
    tests = summarize(study, "now").metric_tests["val_loss"]
    found = find_differences(study, tests, study.entries, counts_tokens(study))
    return found, tests


def check_ends(found, tests):
    """Check that each curve ends at the difference and the interval of its verdict."""
    n_bands = 0
    for curve in found.curves:
        result = tests.entries.get(curve.entry.label)
        if result is None:
            assert not curve.has_band
            continue
        if curve.ends_early:
            continue
        assert curve.mean[-1] == pytest.approx(result.difference.mean, abs=1e-12)
        bounds = result.difference.ci95
        if bounds is None:
            assert not curve.has_band, curve.entry.label
        else:
            assert (curve.low[-1], curve.high[-1]) == bounds
            n_bands += 1
    return n_bands


@pytest.mark.parametrize("name", ["shipped", "ladder", "troubled"])
def test_a_band_ends_at_the_interval_of_the_verdict(name, tmp_path, monkeypatch):
    study = GALLERY[name](tmp_path)
    found, tests = differences(study.store, study.name)
    assert check_ends(found, tests) > 0
    # Computed along the curve, and not taken from the verdict, unless that was cut.
    monkeypatch.setattr(curve_differences, "at_verdict", lambda low, high, *_: (low, high))
    again, _ = differences(study.store, study.name)
    for computed, shown in zip(again.curves, found.curves, strict=True):
        ends = (0.0, *((tests.margin, -tests.margin) if tests.margin else ()))
        for own, verdict in ((computed.low, shown.low), (computed.high, shown.high)):
            if math.isfinite(verdict[-1]) and verdict[-1] not in ends:
                assert own[-1] == pytest.approx(verdict[-1], rel=1e-9)


@pytest.mark.parametrize("seeds", [(0,), (0, 1), (0, 1, 2, 3)])
def test_a_band_needs_two_seeds(fake, seeds):
    fake.seeds = seeds
    found, tests = differences(fake.write().store, fake.name)
    n_bands = check_ends(found, tests)
    assert n_bands == 0 if len(seeds) == 1 else n_bands >= 5
    assert all(curve.n_seeds == len(seeds) for curve in found.curves)


def test_a_band_of_several_looks_ends_at_the_verdict(fake):
    """Each entry has the seeds and the level of the look that settled it."""
    fake.axes = {"attention": ["mha", "gqa2", "local64"]}
    fake.baseline = {"attention": "mha"}
    fake.seeds = (0, 1, 2, 3, 4, 5)
    fake.gain = {"gqa2": -0.5, "local64": -0.0489}
    fake.write()
    plan = LookPlan(seeds=list(fake.seeds), looks=[3, 6])
    order = [run.run_id for run in fake.store.runs(fake.name)]
    path = fake.store.root / fake.name / "launches.jsonl"
    path.unlink()
    fake.store.record_launch(fake.name, LaunchRecord(order=order, looks=plan))
    found, tests = differences(fake.store, fake.name)
    assert {tests.entries[label].look for label in ("gqa2", "local64")} == {1, 2}
    assert check_ends(found, tests) == 2
    assert {curve.entry.label: curve.n_seeds for curve in found.curves} == {
        "gqa2": 3,
        "local64": 6,
    }


def test_differences_are_those_of_common_evaluations(fake):
    fake.axes = {"positional": ["learned", "rope"], "length": ["short", "long"]}
    fake.settings = {"length": {"short": {}, "long": {"train.tokens_per_step": 4096}}}
    fake.baseline = {"positional": "learned", "length": "short"}
    found, _ = differences(fake.write().store, fake.name)
    by_label = {curve.entry.label: curve for curve in found.curves}
    assert not by_label["rope-short"].ends_early
    assert by_label["rope-long"].ends_early
    base = {run.seed: run for run in by_label["rope-long"].base.done}
    for at, mean in zip(by_label["rope-long"].x, by_label["rope-long"].mean, strict=True):
        own = []
        for run in by_label["rope-long"].entry.done:
            i = list(run.tokens_at_evals).index(at)
            j = list(base[run.seed].tokens_at_evals).index(at)
            own.append(run.evals.val_loss[i] - base[run.seed].evals.val_loss[j])
        assert mean == pytest.approx(np.mean(own))


@pytest.mark.parametrize("method", ["two keys", "Holm"])
def test_bands_cover_all_differences_at_once(method):
    """The family-wise coverage at one evaluation, over 1,500 simulated studies."""
    rng = np.random.default_rng(5)
    n_entries, n_seeds, n_studies = 5, 4, 1500
    n_covered = 0
    for _ in range(n_studies):
        values = rng.normal(size=(n_seeds, 1 + n_entries)) + rng.normal(size=(n_seeds, 1))
        half = half_widths(values, method, 0.05, n_entries)
        means = (values[:, 1:] - values[:, :1]).mean(axis=0)
        n_covered += bool((np.abs(means) <= half).all())
    assert n_covered / n_studies > 0.95 - 3 * math.sqrt(0.05 * 0.95 / n_studies)


def test_a_loss_that_is_not_a_number_leaves_a_gap(fake):
    fake.write()
    run = next(run for run in fake.store.runs(fake.name) if "rope-mha-single-s1" in run.run_id)
    whole, _ = differences(fake.store, fake.name)
    lines = (run.path / "eval.jsonl").read_text().splitlines()
    (run.path / "eval.jsonl").write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    found, tests = differences(fake.store, fake.name)
    n_points = {curve.entry.label: len(curve.x) for curve in whole.curves}
    for curve in found.curves:
        lost = curve.entry.label == "rope-mha-single"
        assert len(curve.x) == n_points[curve.entry.label] - lost
    check_ends(found, tests)
