"""Simulated families of entries, and how often the verdicts and intervals on them are right.

Only verdicts come from `harness.analysis`. The draws and the checks against the truth share no code
with it. Units: the standard deviation of a paired difference of two entries of equal noise is 1.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from unittest import mock
from zlib import crc32

import numpy as np
import pandas as pd

from harness.analysis import families, power, sequential
from harness.results.records import Look
from harness.results.records.comparisons import SignificanceResult

NOISE = 0.5**0.5
SEED_NOISE = 5.0  # what a seed adds to all entries
KINDS = {
    "equal": "all entries have equal noise",
    "mild": "every second entry has 1.5 times the noise",
    "one x5": "one entry has 5 times the noise",
    "baseline x5": "the baseline has 5 times the noise",
    "baseline x2.5": "the baseline has 2.5 times the noise",
    "t3": "noise of Student's t with 3 degrees of freedom, scaled to the same variance",
    "grouped": "half of the entries share a second noise of the same size in each seed",
    "lost": "15 % of the runs failed",
    "missing": "15 % of the runs have no value yet",
}
TRUTHS = {
    "none": "no entry differs",
    "one": "one entry differs by `effect`",
    "half": "every second entry differs by `effect`",
    "all": "all entries differ by `effect`",
}


@dataclass(frozen=True)
class Cell:
    """One setting of the simulation."""

    kind: str
    n_seeds: int
    n_comparisons: int
    truth: str = "none"
    effect: float = 0.0
    margin: float | None = None
    looks: tuple[int, ...] = ()  # numbers of seeds at which the family is tested; empty: once


@dataclass
class Study:
    """A frame of values as the family test reads it, and the true differences."""

    values: pd.DataFrame
    lost: dict[str, list[int]]
    truth: dict[str, float]


@dataclass
class Counts:
    """What happened in each study of a cell."""

    false: list[bool] = field(default_factory=list)  # any wrong `better` or `worse`
    false_equivalent: list[bool] = field(default_factory=list)
    own: list[float] = field(default_factory=list)  # fraction of own intervals with the truth
    simultaneous: list[bool] = field(default_factory=list)  # no shown interval misses it
    headline: list[bool] = field(default_factory=list)  # nor that of the largest improvement
    power: list[float] = field(default_factory=list)  # fraction of true effects that are found
    fallback: list[bool] = field(default_factory=list)
    contradictions: int = 0


def noise(kind: str, rng: np.random.Generator, n_entries: int, n_seeds: int) -> np.ndarray:
    """Return the noise of every run, (n_entries, n_seeds), the baseline's first."""
    size = (n_entries, n_seeds)
    draws = rng.standard_t(3, size) / 3**0.5 if kind == "t3" else rng.standard_normal(size)
    if kind == "mild":
        draws[1::2] *= 1.5
    elif kind == "one x5":
        draws[1] *= 5
    elif kind.startswith("baseline"):
        draws[0] *= float(kind.removeprefix("baseline x"))
    elif kind == "grouped":
        draws[n_entries // 2 :] += rng.standard_normal(n_seeds)
    return NOISE * draws


def effects(cell: Cell) -> np.ndarray:
    """Return the true difference of every entry, (n_comparisons,)."""
    true = np.zeros(cell.n_comparisons)
    if cell.truth == "one":
        true[-1] = cell.effect
    elif cell.truth == "half":
        true[::2] = cell.effect
    elif cell.truth == "all":
        true[:] = cell.effect
    return true


def studies(cell: Cell, n_studies: int) -> Iterator[Study]:
    rng = np.random.default_rng(crc32(repr(cell).encode()))
    names = [f"v{i}" for i in range(cell.n_comparisons + 1)]
    true = effects(cell)
    for _ in range(n_studies):
        values = noise(cell.kind, rng, len(names), cell.n_seeds)
        values += SEED_NOISE * rng.standard_normal(cell.n_seeds)
        values[1:] += true[:, None]
        lost: dict[str, list[int]] = {}
        if cell.kind in ("lost", "missing"):
            gone = rng.random(values.shape) < 0.15
            values[gone] = np.nan
            if cell.kind == "lost":
                lost = {
                    name: list(np.flatnonzero(row)) for name, row in zip(names, gone, strict=True)
                }
        frame = pd.DataFrame(values.T, columns=names)
        yield Study(frame, lost, dict(zip(names[1:], true, strict=True)))


def without_seeds_needed():
    """Return a context that skips the number of seeds needed, which takes longest in a test."""
    unknown = power.SeedsNeeded(None, None, None)
    return mock.patch.object(power, "seeds_of_entry", return_value=unknown)


def measure(cell: Cell, n_studies: int) -> Counts:
    """Test `n_studies` simulated studies and compare the results with the truth."""
    counts = Counts()
    for study in studies(cell, n_studies):
        with without_seeds_needed():
            if cell.looks:
                results = test_at_looks(cell, study)
            else:
                tested = families.test_family(study.values, "v0", cell.margin, lost=study.lost)
                results = tested.results
                counts.fallback.append(tested.family.method != "two keys")
        count(counts, cell, study, results)
    return counts


def test_at_looks(cell: Cell, study: Study) -> dict[str, SignificanceResult]:
    """Return the results after all looks, planned with an end; entries stop at their verdict."""
    level = 0.05 / len(cell.looks)
    looks = [Look(seeds=list(range(n_seeds)), level=level) for n_seeds in cell.looks]
    return sequential.replay_values(study.values, "v0", looks, cell.margin)


test_at_looks.__test__ = False  # not a test of pytest


def count(
    counts: Counts, cell: Cell, study: Study, results: Mapping[str, SignificanceResult]
) -> None:
    own = []
    shown = {}
    false = False
    false_equivalent = False
    found = []
    for name, result in results.items():
        true = study.truth[name]
        right = {-1.0: "better", 1.0: "worse"}.get(np.sign(true))
        false |= result.verdict in ("better", "worse") and result.verdict != right
        if cell.margin is not None:
            false_equivalent |= result.verdict == "equivalent" and abs(true) >= cell.margin
        if true:
            found.append(result.verdict == right)
        if result.own95 is not None:
            own.append(contains(result.own95, true))
        if result.difference.ci95 is not None:
            shown[name] = contains(result.difference.ci95, true)
        bounds = result.difference.ci95
        counts.contradictions += (
            contradiction(result.verdict, bounds, cell.margin, True) is not None
        )
    counts.false.append(false)
    counts.false_equivalent.append(false_equivalent)
    if found:
        counts.power.append(float(np.mean(found)))
    if own:
        counts.own.append(float(np.mean(own)))
    best = min(shown, key=lambda name: results[name].difference.mean, default=None)
    counts.simultaneous.append(all(shown.values()))
    counts.headline.append(best is None or shown[best])


def contains(bounds: tuple[float, float], true: float) -> bool:
    """Return whether an open interval contains the truth."""
    return bounds[0] < true < bounds[1]


def contradiction(
    verdict: str | None,
    bounds: tuple[float, float] | None,
    margin: float | None,
    lower_is_better: bool,
) -> str | None:
    """Return how a verdict and the interval shown with it disagree; None if they agree.

    Intervals are open: one that ends at 0 excludes it.
    """
    if verdict is None or bounds is None:
        return None
    low, high = bounds
    if verdict == "equivalent":
        widest = 0.0 if margin is None else margin
        return None if -widest <= low <= high <= widest else "equivalent beyond the margin"
    if verdict == "unresolved":
        if margin is not None and -margin < low and high < margin:
            return "unresolved within the margin"
        return None if low < 0 < high else "unresolved, and the interval excludes 0"
    if low < 0 < high or low == high == 0:
        return f"{verdict}, and the interval contains 0"
    is_better = (high <= 0) == lower_is_better
    return None if is_better == (verdict == "better") else "the wrong direction"


def table(cells: list[Cell], n_studies: int, processes: int = 1) -> pd.DataFrame:
    """Return the rates of each cell, one row for each, as fractions of studies."""
    if processes == 1:
        measured = [measure(cell, n_studies) for cell in cells]
    else:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            # the largest families first, so that no process is left with one at the end
            order = sorted(range(len(cells)), key=lambda i: -cells[i].n_comparisons)
            submitted = {i: pool.submit(measure, cells[i], n_studies) for i in order}
            measured = [submitted[i].result() for i in range(len(cells))]
    rows = []
    for cell, counts in zip(cells, measured, strict=True):
        row = dict(vars(cell))
        for name, values in vars(counts).items():
            if name == "contradictions":
                row[name] = values
            else:
                row[name] = float(np.mean(values)) if values else np.nan
        rows.append(row | {"studies": n_studies})
    return pd.DataFrame(rows)
