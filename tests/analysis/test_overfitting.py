"""If these failed, a final loss that overfitting determines would pass for the entry's."""

import os
from dataclasses import replace

import numpy as np
import pytest

from harness.analysis import overfitting
from harness.analysis.overfitting import find_rise
from harness.results.records import EquivalenceMargin, LaunchRecord

OVERFITTED = np.array([5.5, 2.2, 1.5, 1.65, 1.8, 1.95])
N = int(os.environ.get("CALIBRATE", 200))  # curves of each kind


def noisy(rng, curve, n_seeds, sd, correlation):
    """Return curves with autoregressive noise, (n_seeds, n_evals)."""
    noise = rng.standard_normal((n_seeds, len(curve)))
    for k in range(1, len(curve)):
        new = np.sqrt(1 - correlation**2) * noise[:, k]
        noise[:, k] = correlation * noise[:, k - 1] + new
    return curve + sd * noise


def rate(rng, curve, n_seeds, sd, correlation):
    """Return the fraction of simulated entries whose rise is found."""
    found = [find_rise(noisy(rng, curve, n_seeds, sd, correlation)) for _ in range(N)]
    return np.mean([rise is not None for rise in found])


def with_losses(study, label, losses):
    """Return the study with these validation losses of an entry, (n_seeds, n_evals)."""
    entries = []
    for entry in study.entries:
        runs = []
        for run, values in zip(entry.runs, losses, strict=True):
            if entry.label == label:
                step = np.arange(len(values)) * 2
                evals = replace(run.evals, step=step, val_loss=np.array(values))
                run = replace(run, evals=evals)
            runs.append(run)
        entries.append(replace(entry, runs=tuple(runs)))
    return replace(study, entries=tuple(entries))


def test_the_rise_is_from_the_lowest_mean_to_the_end():
    rise = find_rise(np.array([OVERFITTED, OVERFITTED + 0.01, OVERFITTED - 0.01]))
    assert rise.lowest_at == 2
    assert rise.lowest == pytest.approx(1.5)
    assert rise.height == pytest.approx(0.45)
    assert find_rise(OVERFITTED[None]) is not None, "one seed suffices"


def test_noise_on_a_plateau_is_rarely_overfitting():
    """The worst case: the final loss is one of many equal ones, the lowest is selected."""
    rng = np.random.default_rng(0)
    for n_evals in (4, 6, 10, 50, 200):
        for correlation, limits in ((0.0, (0.05, 0.03)), (0.9, (0.14, 0.06))):
            for n_seeds, limit in zip((1, 3), limits, strict=True):
                for sd in (0.005, 0.03):
                    alarms = rate(rng, np.zeros(n_evals), n_seeds, sd, correlation)
                    assert alarms <= limit, (n_evals, correlation, n_seeds, sd, alarms)


def test_a_falling_loss_is_never_overfitting():
    rng = np.random.default_rng(1)
    for n_evals in (4, 6, 10):
        falling = 3 * np.exp(-np.arange(n_evals) / (0.16 * n_evals))
        assert rate(rng, falling, 3, 0.01, 0.5) == 0.0


def test_rises_above_the_noise_are_found():
    rng = np.random.default_rng(2)
    assert rate(rng, OVERFITTED, 1, 0.004, 0.0) > 0.99
    for n_evals in (10, 50):
        t = np.linspace(0, 1, n_evals)
        rising = 1.5 + 3 * np.exp(-t / 0.08) + 0.2 * np.maximum(0, t - 0.5)
        assert rate(rng, rising, 3, 0.01, 0.5) > 0.9
        assert rate(rng, rising, 1, 0.01, 0.5) > 0.6


def test_the_caveat_states_rise_and_place(one_axis, read_study):
    study = read_study(one_axis)
    assert [*overfitting.caveats(study)] == []
    label = study.entries[1].label
    losses = [OVERFITTED + 0.004 * seed for seed in range(3)]
    (caveat,) = overfitting.caveats(with_losses(study, label, losses))
    assert (caveat.kind, caveat.entry) == ("overfitting", label)
    assert "rises by 0.450 nats" in caveat.message
    assert "1.504 after 4 of 10 steps (mean of 3 of 3 runs)" in caveat.message


def test_a_rise_within_the_margin_is_no_overfitting(one_axis, read_study):
    study = read_study(one_axis)
    losses = [2.0 + np.array([3.0, 1.0, 0.0, 0.01, 0.02, 0.03])] * 3
    rising = with_losses(study, study.entries[0].label, losses)
    assert [*overfitting.caveats(rising)] != []
    margin = EquivalenceMargin(val_loss=0.05)
    launch = LaunchRecord(order=[], settings_hash=study.settings_hash, equivalence_margin=margin)
    assert [*overfitting.caveats(replace(rising, launches=(launch,)))] == []
