"""Error rates, coverage and power of the statistics on simulated studies.

`make calibrate` takes 2,000 studies of each kind, prints the tables and writes them to
reports/calibration. In the small size, chance may move a rate.
"""

import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from tests.analysis import simulated_families
from tests.analysis.simulated_families import Cell

N = int(os.environ.get("CALIBRATE", "300"))  # studies
FULL = "CALIBRATE" in os.environ
N_FAMILIES = N if FULL else 100
PROCESSES = 2 if FULL else 1
FOLDER = Path(__file__).parent.parent.parent / "reports/calibration"
SEED_NOISE = 0.05  # nats: noise that a seed adds to all entries
NOISE = 0.01  # nats: noise of each entry

DRAWS = {
    "normal": lambda rng, size: rng.normal(size=size),
    "heavy-tailed": lambda rng, size: rng.standard_t(3, size=size) / 3**0.5,  # of the same variance
}
noises = pytest.mark.parametrize("noise", DRAWS)
seed_counts = pytest.mark.parametrize("n_seeds", [3, 5, 10])

# The power of the rule measured before it was written, by seeds and size of the effect in standard
# deviations of paired differences, among 17 comparisons.
POWER = {(3, 1): 0.06, (3, 2): 0.38, (3, 3): 0.74, (5, 1): 0.18, (5, 2): 0.84, (5, 3): 0.98}


def chance(rate: float, n: int = N) -> float:
    """Return the deviation of a rate over n studies that chance exceeds once in 1,000 tests."""
    return 3.3 * (rate * (1 - rate) / n) ** 0.5


def slack(rate: float) -> float:
    """Return what chance may add to a rate over families; nothing in the full size."""
    return 0.0 if FULL else chance(rate, N_FAMILIES)


def error_limit(kind: str) -> float:
    """Return the highest familywise error rate of a kind.

    The two-key rule protects less if one entry or the baseline is much noisier than the others.
    """
    return 0.075 if kind.endswith("x5") else 0.06


def null_cells() -> list[Cell]:
    if not FULL:
        small = [("equal", 3, 17), ("one x5", 3, 5), ("baseline x5", 5, 5), ("grouped", 3, 5)]
        small += [("lost", 5, 5), ("missing", 3, 5)]
        return [Cell(*cell) for cell in small]
    kinds = [kind for kind in simulated_families.KINDS if kind != "baseline x2.5"]
    return [Cell(kind, n, m) for kind, n, m in product(kinds, [3, 5, 10], [2, 5, 17])]


def partial_cells() -> list[Cell]:
    """Return cells in which half of the entries differ, so that the test takes more steps."""
    if not FULL:
        return [Cell("equal", 5, 5, "half", -3.0)]
    kinds = ["equal", "one x5", "baseline x5", "t3", "lost"]
    return [Cell(kind, n, m, "half", -3.0) for kind, n, m in product(kinds, [3, 5], [5, 17])]


def equivalence_cells() -> list[Cell]:
    """Return cells in which all entries differ by the margin, so that none is equivalent."""
    if not FULL:
        return [Cell("equal", 5, 5, "all", 2.0, 2.0)]
    kinds = ["equal", "mild", "one x5", "baseline x5", "t3", "lost", "missing"]
    return [Cell(kind, n, m, "all", 2.0, 2.0) for kind, n, m in product(kinds, [3, 5], [2, 17])]


def look_cells() -> list[Cell]:
    looks = (3, 5, 8, 12)
    if not FULL:
        return [Cell("equal", 12, 5, looks=looks)]
    kinds = ["equal", "mild", "one x5", "baseline x5", "t3", "grouped"]
    return [Cell(kind, 12, m, looks=looks) for kind, m in product(kinds, [2, 5, 17])]


def measured(name: str, cells: list[Cell]):
    """Return the table of some cells; in the full size, also write and print it."""
    table = simulated_families.table(cells, N_FAMILIES, PROCESSES)
    if FULL:
        FOLDER.mkdir(parents=True, exist_ok=True)
        table.to_csv(FOLDER / f"{name.replace(', ', ' ').replace(' ', '-')}.csv", index=False)
        print(f"\n{name}: fractions of {N_FAMILIES} studies")
        print(table.drop(columns="studies").to_string(index=False, float_format="%.3f"))
    return table


def failures(table, wrong) -> str:
    """Return the rows of a table that are wrong, as text; empty if none is."""
    rows = table[wrong]
    return "" if rows.empty else rows.to_string(index=False)


@pytest.fixture(scope="module")
def null():
    return measured("no differences", null_cells())


@pytest.fixture(scope="module")
def partial():
    return measured("half of the entries differ", partial_cells())


@pytest.fixture(scope="module")
def equivalence():
    return measured("all entries differ by the margin", equivalence_cells())


@pytest.fixture(scope="module")
def looks():
    return measured("no differences, looks at 3, 5, 8 and 12 seeds", look_cells())


@pytest.mark.parametrize("case", ["null", "partial"])
def test_familywise_error_rate_is_limited(case, request):
    table = request.getfixturevalue(case)
    limits = table["kind"].map(error_limit)
    assert not failures(table, table["false"] > limits + limits.map(slack))


def test_error_rate_over_looks_is_at_most_5_5_percent(looks):
    """With one noisy entry or baseline, the limit is that of a single look."""
    limits = looks["kind"].map(lambda kind: 0.075 if kind.endswith("x5") else 0.055)
    assert not failures(looks, looks["false"] > limits + limits.map(slack))
    assert not failures(looks, looks["simultaneous"] < 1 - limits - limits.map(slack))


def test_false_equivalence_rate_is_at_most_6_percent(equivalence):
    assert not failures(equivalence, equivalence["false_equivalent"] > 0.06 + slack(0.06))


@pytest.mark.parametrize("case", ["null", "partial"])
def test_own_intervals_have_95_percent_coverage(case, request):
    """Intervals of one study share the baseline's noise, so that they count as one observation."""
    table = request.getfixturevalue(case)
    deviation = (table["own"] - 0.95).abs()
    assert not failures(table, deviation > 0.02 + slack(0.95))


@pytest.mark.parametrize("case", ["null", "partial"])
@pytest.mark.parametrize("intervals", ["simultaneous", "headline"])
def test_shown_intervals_hold_together(case, intervals, request):
    """Also that of the largest improvement, which is selected after the test."""
    table = request.getfixturevalue(case)
    limits = table["kind"].map(lambda kind: 1 - error_limit(kind))
    assert not failures(table, table[intervals] < limits - limits.map(slack))


@pytest.mark.parametrize("case", ["null", "partial", "equivalence", "looks"])
def test_no_verdict_contradicts_its_interval(case, request):
    table = request.getfixturevalue(case)
    assert not failures(table, table["contradictions"] > 0)


def test_power_is_that_of_the_rule():
    chosen = POWER if FULL else {(3, 3): POWER[3, 3]}
    cells = [Cell("equal", n, 17, "one", -float(effect)) for n, effect in chosen]
    table = measured("power of one difference among 17", cells)
    expected = np.array(list(chosen.values()))
    deviation = (table["power"] - expected).abs()
    assert not failures(table, deviation > 0.03 + np.array([slack(rate) for rate in expected]))
