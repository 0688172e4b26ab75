"""How many seeds a difference needs, what the seeds at hand can show, and what that costs; from results at hand."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from harness.analysis import significance as verdicts
from harness.analysis.dataset import StudyResults
from harness.analysis.metrics import baseline_of
from harness.results.run_data import RunData


@dataclass(frozen=True)
class SeedPlan:
    """What finding a difference of `detect` nats takes, if the noise stays what it was.

    `noise` is the standard deviation of paired differences, pooled over the entries, with `degrees_of_freedom`; its
    own uncertainty moves the number of seeds by `seeds_low` to `seeds_high` (95 % interval of a chi-squared variance).
    `minimum_detectable_effect` is what the `seeds_at_hand` find with 80 % power. Hours are those of one run after the other.
    """

    detect: float
    n_compared: int
    noise: float
    degrees_of_freedom: int
    seeds_at_hand: int
    minimum_detectable_effect: float
    seeds: int | None
    seeds_low: int | None
    seeds_high: int | None
    hours_per_seed: float
    hours: float | None


def plan(study: StudyResults, detect: float) -> SeedPlan | None:
    """Plan from what is done; None where no entry shares two seeds with its baseline, which tells of no noise."""
    pairs = [(entry, base) for entry in study.entries if (base := baseline_of(study, entry))]
    groups, shared = [], 0
    for entry, base in pairs:
        own, other = (
            {run.seed: float(run.evals.val_loss[-1]) for run in e.done} for e in (entry, base)
        )
        values = [own[seed] - other[seed] for seed in own.keys() & other.keys()]
        shared = max(shared, len(values))
        if (
            len(values) > 1 and np.ptp(values) > 0
        ):  # a parallelism that changes no bit has no noise to tell of
            groups.append(values)
    if not groups:
        return None
    noise, df = pooled(groups)
    alpha = verdicts.ALPHA / len(pairs)
    low, high = _interval(noise, df)
    seeds, fewest, most = (_seeds(detect, sd, alpha) for sd in (noise, low, high))
    hours = sum(np.mean([_total_s(run) for run in e.done]) for e in study.entries if e.done) / 3600
    return SeedPlan(
        detect=detect,
        n_compared=len(pairs),
        noise=noise,
        degrees_of_freedom=df,
        seeds_at_hand=shared,
        minimum_detectable_effect=verdicts.minimum_detectable_effect(shared, noise, alpha),
        seeds=seeds,
        seeds_low=fewest,
        seeds_high=most,
        hours_per_seed=float(hours),
        hours=None if seeds is None else float(hours * max(0, seeds - shared)),
    )


def _total_s(run: RunData) -> float:
    return (run.measured.time and run.measured.time.total_s) or 0.0


def pooled(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Return the standard deviation that groups of differences share, each about its own mean, and its df."""
    df = sum(len(values) - 1 for values in groups)
    return math.sqrt(sum(float(np.var(values, ddof=0)) * len(values) for values in groups) / df), df


def _seeds(detect: float, sd: float, alpha: float) -> int | None:
    return verdicts.required_seeds(
        partial(verdicts.paired_t_power, difference=detect, sd=sd, alpha=alpha)
    )


def _interval(sd: float, df: int) -> tuple[float, float]:
    from scipy.special import chdtri

    return sd * math.sqrt(df / float(chdtri(df, 0.025))), sd * math.sqrt(
        df / float(chdtri(df, 0.975))
    )


def fractional_design(
    levels: Mapping[str, Sequence[str]], baseline: Mapping[str, str], size: int
) -> list[dict[str, str]]:
    """Return `size` cells of a matrix, the baseline among them, that still tell all main effects from one another.

    They are chosen one at a time such that the determinant of the main effects' information grows most (Mitchell 1974's
    first stage), then exchanged as long as that helps; levels come out as balanced as the size allows.

    Raises:
        ValueError: the size is too small for that, or larger than the matrix.
    """
    axes = {axis: list(names) for axis, names in levels.items()}
    cells = [dict(zip(axes, cell, strict=True)) for cell in product(*axes.values())]
    n_unknown = 1 + sum(len(names) - 1 for names in axes.values())
    if not n_unknown <= size <= len(cells):
        raise ValueError(
            f"{size}: must be {n_unknown} (one for each level beyond the first, and one) to {len(cells)}"
        )
    rows = np.array(
        [[1.0, *(float(c[a] == n) for a, names in axes.items() for n in names[1:])] for c in cells]
    )
    first = next((i for i, cell in enumerate(cells) if cell == {**cell, **baseline}), 0)

    def information(chosen: Sequence[int]) -> float:
        x = rows[list(chosen)]
        return float(np.linalg.slogdet(x.T @ x + 1e-6 * np.eye(x.shape[1]))[1])

    chosen = [first]
    while len(chosen) < size:
        chosen.append(
            max(
                (i for i in range(len(cells)) if i not in chosen),
                key=lambda i: information([*chosen, i]),
            )
        )
    improved = True
    while improved:
        improved = False
        for place in range(1, size):
            rest = [c for i, c in enumerate(chosen) if i != place]
            best = max(
                (i for i in range(len(cells)) if i not in rest),
                key=lambda i: information([*rest, i]),
            )
            if information([*rest, best]) > information(chosen) + 1e-9:
                chosen[place], improved = best, True
    return [cells[i] for i in sorted(chosen)]
