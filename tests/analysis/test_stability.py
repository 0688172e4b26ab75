"""Spikes are found, normal training curves raise no alarm, and the report says which runs spike.

If these failed, a verdict that rests on an unstable run would look like any other, or every study
would be called unstable.
"""

import itertools

import numpy as np
import pytest
from reported import written

import harness
from harness.analysis.stability import LOSS_HEIGHT, gradient_outliers, loss_spikes
from harness.results.files import read_lines
from harness.results.records import StepRecord

N_CURVES = 300  # of each kind
LENGTHS = (12, 60, 500, 3000)
NOISES = (0.003, 0.03, 0.3)  # nats


def normal_curve(rng, n_steps, noise, kind):
    """Return losses that fall from 5.5 to 1.5, fast at first, with the given noise."""
    descent = rng.uniform(0.01, 0.5) * n_steps
    power = 1.5 + 4 * (1 + np.arange(n_steps) / (0.1 * descent + 1)) ** -rng.uniform(0.5, 2)
    exponential = 1.5 + 4 * np.exp(-np.arange(n_steps) / (descent + 1))
    falling = power if rng.random() < 0.5 else exponential
    if kind == "heavy tails":
        return falling + noise * rng.standard_t(8, n_steps)
    shocks = noise * rng.standard_normal(n_steps)
    if kind == "correlated":
        for i in range(1, n_steps):
            shocks[i] += 0.25 * shocks[i - 1]
    return falling + shocks


def normal_norms(rng, n_steps):
    """Return gradient norms that fall at first, with noise and slow swings of their logarithm."""
    falling = 1 + 5 * np.exp(-np.arange(n_steps) / (0.1 * n_steps))
    swings = 0.5 * np.sin(np.arange(n_steps) / rng.uniform(5, 50) + rng.uniform(0, 6))
    return falling * np.exp(0.3 * rng.standard_normal(n_steps) + swings)


@pytest.mark.parametrize("kind", ["normal", "correlated", "heavy tails"])
@pytest.mark.parametrize("n_steps", LENGTHS)
def test_normal_curves_raise_no_alarm(kind, n_steps):
    rng = np.random.default_rng([n_steps, len(kind)])
    curves = [
        normal_curve(rng, n_steps, noise, kind)
        for noise in NOISES
        for _ in range(N_CURVES // len(NOISES))
    ]
    rate = np.mean([bool(loss_spikes(curve)) for curve in curves])
    assert rate <= (0.03 if kind == "heavy tails" else 0.005)


@pytest.mark.parametrize("n_steps", LENGTHS)
def test_normal_gradient_norms_raise_no_alarm(n_steps):
    rng = np.random.default_rng(n_steps)
    rate = np.mean([bool(gradient_outliers(normal_norms(rng, n_steps))) for _ in range(N_CURVES)])
    assert rate <= 0.005


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("n_steps", LENGTHS[1:])
def test_planted_spikes_are_found(noise, n_steps):
    rng = np.random.default_rng(n_steps)
    hits = []
    for _ in range(N_CURVES // 4):
        curve = normal_curve(rng, n_steps, noise, "normal")
        first = int(rng.integers(n_steps // 3, n_steps - 3))
        height = max(20 * noise, 3 * LOSS_HEIGHT)
        curve[first : first + 3] += height * np.array([1.0, 0.9, 0.8])
        peaks = loss_spikes(curve)
        hits.append(any(peak.first == first for peak in peaks))
    assert np.mean(hits) >= 0.9


def test_a_spike_during_the_first_descent():
    losses = [5.53, 5.22, 4.97, 4.83, 4.68, 4.52, 4.26, 3.99, 5.07, 3.71, 3.60, 3.41, 3.39, 3.30]
    losses += [8.96, 4.90, 3.60, 3.33, 3.43, 3.25, 3.31, 3.29, 3.22, 3.21, 3.18, 3.17]
    peaks = loss_spikes(np.array(losses))
    assert [(peak.first, peak.last) for peak in peaks] == [(8, 8), (14, 15)]
    assert peaks[1].height == pytest.approx(8.96 - 3.39)


@pytest.mark.parametrize("jump", [1, 40])
def test_a_loss_that_never_recovers_is_one_spike(jump):
    rng = np.random.default_rng(0)
    curve = normal_curve(rng, 200, 0.03, "normal")
    curve[100:] += np.minimum(np.arange(100) / jump, 1) * 3
    (peak,) = loss_spikes(curve)
    assert 100 <= peak.first < 120
    assert peak.last == 199


def test_a_shift_of_the_loss_or_scale_of_norms_keeps_spikes():
    rng = np.random.default_rng(1)
    curve = normal_curve(rng, 300, 0.05, "normal")
    curve[[50, 150, 151, 250]] += (0.6, 1.0, 2.0, 0.45)
    norms = normal_norms(rng, 300)
    norms[[60, 61, 200]] *= (40, 60, 30)
    spikes = loss_spikes(curve)
    outliers = gradient_outliers(norms)
    assert [peak[:3] for peak in spikes] == [(50, 50, 50), (150, 151, 151), (250, 250, 250)]
    assert [peak[:3] for peak in outliers] == [(60, 61, 61), (200, 200, 200)]
    assert [peak[:3] for peak in loss_spikes(curve + 7)] == [peak[:3] for peak in spikes]
    for factor in (1e-6, 1e6):
        scaled = gradient_outliers(factor * norms)
        assert [peak[:3] for peak in scaled] == [peak[:3] for peak in outliers]
        assert [peak.height for peak in scaled] == pytest.approx([p.height for p in outliers])


@pytest.mark.parametrize("find", [loss_spikes, gradient_outliers])
@pytest.mark.parametrize("n_steps", range(8))
def test_short_constant_and_missing_values(find, n_steps):
    for values in (np.ones(n_steps), np.zeros(n_steps), np.full(n_steps, np.nan)):
        assert find(values) == []
    values = np.ones(n_steps + 30)
    values[::3] = np.nan
    values[n_steps + 13 :] *= 1 + LOSS_HEIGHT / 2
    assert find(values) == []


def test_the_report_counts_spikes_by_run_and_entry(one_axis, no_figures):
    one_axis.steps = 40
    one_axis.outcome = {"learned-gqa2-single-s2": ("failed", "nan", "not finite")}
    one_axis.write()
    planted = {"learned-gqa2-single-s1": (30, 3.0, 1.0), "learned-gqa2-single-s2": (10, 0.0, 50.0)}
    for run, (seed, plant) in itertools.product(one_axis.store.runs("tiny"), planted.items()):
        if run.run_id.startswith(seed):
            change_step(run, *plant)
    page, summary, folder = written(one_axis)
    spikes = [(s["entry"], s["seed"], s["kind"], s["step"]) for s in summary["spikes"]]
    entry = "learned-gqa2-single"
    assert spikes == [(entry, 1, "loss", 30), (entry, 2, "gradient norm", 10)]
    gqa = next(row for row in summary["entries"] if row["entry"] == entry)
    assert (gqa["unstable_seeds"], gqa["n_loss_spikes"], gqa["n_grad_norm_outliers"]) == (
        [1, 2],
        1,
        1,
    ), "a failed run counts"
    assert [run["n_grad_norm_outliers"] for run in gqa["runs"]] == [0, 0, 1]
    assert [run["max_grad_norm"] for run in gqa["runs"]] == [1.0, 1.0, 50.0]
    assert "2 of 6 runs spike" in page
    assert [(caveat["kind"], caveat["entry"]) for caveat in summary["caveats"]] == [
        ("lost-seeds", entry),
        ("unstable", entry),
    ]
    assert "2 of 3 runs spike" in summary["caveats"][1]["message"]
    assert "seed 1, step 30" in summary["caveats"][1]["message"]
    assert "gqa2 [unstable, lost-seeds]" in page.split("## Results")[0]
    assert (folder / "tables" / "spikes.csv").read_text().count("\n") == 3


def test_the_report_says_that_no_run_spikes(one_axis, no_figures):
    page, summary, _ = written(one_axis.write())
    assert summary["spikes"] == []
    assert "None of the 6 runs spikes" in page


def change_step(run, step, loss, factor):
    """Add to the loss of one step of a run, and multiply its gradient norm."""
    path = run.steps_path(0)
    lines = read_lines(path, StepRecord)
    path.unlink()
    file = run.steps_file(0)
    for line in lines:
        if line.step == step:
            changes = {"loss": line.loss + loss, "grad_norm": line.grad_norm * factor}
            line = line.model_copy(update=changes)
        file.append(line)
    file.close()


def test_loaded_runs_have_the_counts(one_axis):
    one_axis.steps = 40
    one_axis.write()
    for run in one_axis.store.runs("tiny"):
        if run.run_id.startswith("learned-gqa2-single-s1"):
            change_step(run, 30, 3.0, 20.0)
    frame = harness.load(one_axis.root, study="tiny").runs
    unstable = frame.query("n_loss_spikes > 0")
    assert unstable[["n_loss_spikes", "n_grad_norm_outliers", "max_grad_norm"]].values.tolist() == [
        [1, 1, 20.0]
    ]
    assert unstable["seed"].tolist() == [1]
