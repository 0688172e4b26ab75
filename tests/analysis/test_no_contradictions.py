"""If these failed, a report would show a verdict next to an interval that disagrees."""

import numpy as np
import pandas as pd
import pytest

from harness.analysis import families
from tests.analysis.simulated_families import (
    KINDS,
    contradiction,
    noise,
    without_seeds_needed,
)

N_STUDIES = 1000
SCALES = {"nats": 1.0, "bits per byte": 0.3, "millions": 1e6, "billionths": 1e-9}


@pytest.fixture(autouse=True)
def fast():
    with without_seeds_needed():
        yield


def result_contradiction(result, margin, lower_is_better):
    """Return how a result contradicts itself; None if it does not."""
    bounds = result.difference.ci95
    if result.verdict is None:
        return "an interval without a verdict" if bounds is not None else None
    if bounds is None:
        return None if result.lost_seeds else "no interval, although no seed is lost"
    if not bounds[0] <= result.difference.mean <= bounds[1]:
        return "the mean is outside of the interval"
    return contradiction(result.verdict, bounds, margin, lower_is_better)


def random_study(rng):
    """Return values, lost seeds, margin and direction of a study that differs in many ways."""
    kind = str(rng.choice(list(KINDS)))
    n_seeds = int(rng.choice([1, 2, 3, 3, 4, 5, 10]))
    n_entries = int(rng.choice([2, 3, 3, 6, 6, 9, 18])) + 1
    scale = float(rng.choice(list(SCALES.values())))
    values = noise(kind, rng, n_entries, n_seeds)
    values += rng.normal(0, 5, size=n_seeds)
    values += rng.choice([0.0, 0.2, 2.0, -3.0, 10.0], size=(n_entries, 1))
    if rng.random() < 0.2:
        values = np.round(values, int(rng.integers(0, 2)))  # ties and constant differences
    if rng.random() < 0.1:
        values[1] = values[0]
    if rng.random() < 0.1:
        values[-1] = values[0] + 1.0
    names = [f"v{i}" for i in range(n_entries)]
    lost = {}
    loses = rng.choice(["none", "some", "all the same", "missing"], p=[0.5, 0.2, 0.1, 0.2])
    gone = np.zeros(values.shape, dtype=bool)
    if loses in ("some", "missing"):
        gone = rng.random(values.shape) < 0.2
    elif loses == "all the same":
        gone[:, 0] = True
    values[gone] = np.nan
    if loses in ("some", "all the same"):
        lost = {name: list(np.flatnonzero(row)) for name, row in zip(names, gone, strict=True)}
    margin = None if rng.random() < 0.3 else float(rng.choice([0.1, 1.0, 3.0])) * scale
    frame = pd.DataFrame(scale * values.T, columns=names)
    return frame, lost, margin, bool(rng.random() < 0.5)


def test_no_verdict_contradicts_its_interval_in_1000_studies():
    """Over sizes, seeds, lost and missing runs, margins, units, levels, ties and the fallback."""
    rng = np.random.default_rng(17)
    wrong = []
    seen = set()
    n_cut = 0  # intervals that a later step of the test cuts at 0
    for i in range(N_STUDIES):
        values, lost, margin, lower_is_better = random_study(rng)
        alpha = float(rng.choice([0.05, 0.05, 0.0125, 0.001]))
        own_margins = {"v1": None} if i % 5 == 0 else {}
        tested = families.test_family(
            values, "v0", margin, lower_is_better, alpha=alpha, margins=own_margins, lost=lost
        )
        for name, result in tested.results.items():
            seen.add((result.verdict, tested.family.method))
            bounds = result.difference.ci95
            n_cut += bounds is not None and (0.0 in bounds) and bounds[0] != bounds[1]
            reason = result_contradiction(result, own_margins.get(name, margin), lower_is_better)
            if reason:
                wrong.append(f"study {i}, {name}: {reason}: {result}")
    assert not wrong, "\n".join(wrong[:5])
    assert n_cut > 0
    for method in ("two keys", "Holm"):
        for verdict in ("better", "worse", "equivalent", "unresolved"):
            assert (verdict, method) in seen


@pytest.mark.parametrize("lower_is_better", [True, False])
def test_lost_seeds_never_help_the_side_that_lost(lower_is_better):
    rng = np.random.default_rng(18)
    for _ in range(60):
        values = noise("equal", rng, 4, 5) + rng.choice([0.0, -3.0, 3.0], size=(4, 1))
        frame = pd.DataFrame(values.T, columns=["v0", "v1", "v2", "v3"])
        frame.loc[0, "v1"] = np.nan
        tested = families.test_family(frame, "v0", 1.0, lower_is_better, lost={"v1": [0]})
        assert tested.results["v1"].verdict not in ("better", "equivalent")
        assert tested.results["v1"].lost_seeds == [0]
        frame.loc[1, "v0"] = np.nan
        tested = families.test_family(frame, "v0", 1.0, lower_is_better, lost={"v0": [1]})
        for result in tested.results.values():
            assert result.verdict not in ("worse", "equivalent")
            assert result.lost_seeds == [1]
