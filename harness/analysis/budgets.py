"""The same runs read at equal tokens, FLOPs, time and parameters, and what it takes to reach the baseline's loss.

Who leads depends on what is held equal: a variant that learns more from each token may learn less in each second.
Between two evaluations a loss is taken from the straight line between them. Field names are those of summary.json.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.analysis import intervals as statistics
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.intervals import Bounds, Mean
from harness.analysis.metrics import PARALLELISM, baseline_of
from harness.results.run_data import RunData

BudgetKind = Literal["tokens", "flops", "train_s", "parameters"]
SAME_SIZE = 0.01  # relative: entries whose parameters differ by no more are of equal size


@dataclass(frozen=True)
class Ranking:
    """Entries by their loss where they have spent the same, the lowest first.

    `budget` is what the cheapest entry spent in all: tokens, FLOPs, or seconds of training. For parameters it is the
    baseline's number, and entries of another size are left out. Entries of another parallelism than the baseline's
    stand in the ranking by time alone: in all else they repeat others.
    """

    budget_kind: BudgetKind
    budget: float
    val_loss: dict[str, Mean]


@dataclass(frozen=True)
class CostToBaselineLoss:
    """How much less an entry needs than its baseline to reach the loss that the baseline ends with, seed by seed.

    Factors (1.12: the baseline needs 1.12 times as much), geometric means over the seeds that reach it, with the t
    interval of their logarithm. `not_reached` are seeds that never do.
    """

    entry: str
    against: str
    seeds: list[int]
    not_reached: list[int]
    tokens_ratio: float | None
    tokens_ratio_ci95: Bounds | None
    train_time_ratio: float | None
    train_time_ratio_ci95: Bounds | None


def _tokens(run: RunData) -> np.ndarray:
    return run.evals.step * float(run.steps.tokens[0])


AMOUNTS: dict[
    BudgetKind, Callable[[RunData], np.ndarray]
] = {  # spent until each evaluation, (n_evals,)
    "tokens": _tokens,
    "flops": lambda run: _tokens(run) * run.measured.flops_per_token,
    "train_s": lambda run: run.evals.train_s,
}


def rankings(study: StudyResults) -> list[Ranking]:
    """Return one ranking for each budget, of the entries that are done, where there are two or more to rank."""
    done = [entry for entry in study.entries if entry.done]
    if len(done) < 2:
        return []
    usual = study.baseline.get(PARALLELISM)
    alone = [entry for entry in done if entry.axes.get(PARALLELISM) == usual] or done
    found = [
        _at_equal(kind, spent, done if kind == "train_s" else alone)
        for kind, spent in AMOUNTS.items()
    ]
    base = study.find(done[0].axes | study.baseline)
    if base is not None and base.done:
        found.append(_of_equal_size(base, alone))
    return [ranking for ranking in found if len(ranking.val_loss) > 1]


def _at_equal(
    kind: BudgetKind, spent: Callable[[RunData], np.ndarray], entries: list[Entry]
) -> Ranking:
    budget = min(float(spent(run)[-1]) for entry in entries for run in entry.done)
    losses = {
        e.label: [float(np.interp(budget, spent(run), run.evals.val_loss)) for run in e.done]
        for e in entries
    }
    return Ranking(
        kind, budget, _sorted({label: statistics.mean(values) for label, values in losses.items()})
    )


def _of_equal_size(base: Entry, entries: list[Entry]) -> Ranking:
    size = float(base.done[0].measured.parameters)
    same = [
        entry for entry in entries if abs(entry.done[0].measured.parameters / size - 1) <= SAME_SIZE
    ]
    losses = {
        e.label: statistics.mean([float(run.evals.val_loss[-1]) for run in e.done]) for e in same
    }
    return Ranking("parameters", size, _sorted(losses))


def _sorted(losses: dict[str, Mean]) -> dict[str, Mean]:
    return dict(sorted(losses.items(), key=lambda item: item[1].mean))


def savings(study: StudyResults) -> list[CostToBaselineLoss]:
    """Compare each entry with its baseline by what it takes to get as far."""
    pairs = [(entry, baseline_of(study, entry)) for entry in study.entries]
    return [found for entry, base in pairs if base and (found := _savings(entry, base))]


def _savings(entry: Entry, base: Entry) -> CostToBaselineLoss | None:
    by_seed = {run.seed: run for run in base.done}
    both = [(run, by_seed[run.seed]) for run in entry.done if run.seed in by_seed]
    if not both:
        return None
    reached = {
        run.seed: (run, other, at)
        for run, other in both
        if (at := step_reaching_baseline(run, other)) is not None
    }
    tokens, train_s = (
        _geometric(
            [
                spent(other)[-1] / float(np.interp(at, run.evals.step, spent(run)))
                for run, other, at in reached.values()
            ]
        )
        for spent in (AMOUNTS["tokens"], AMOUNTS["train_s"])
    )
    return CostToBaselineLoss(
        entry=entry.label,
        against=base.label,
        seeds=list(reached),
        not_reached=[run.seed for run, _ in both if run.seed not in reached],
        tokens_ratio=tokens[0],
        tokens_ratio_ci95=tokens[1],
        train_time_ratio=train_s[0],
        train_time_ratio_ci95=train_s[1],
    )


def step_reaching_baseline(run: RunData, other: RunData) -> float | None:
    """Return the step, in parts, at which a run first is as low as the other in the end; None if it never is."""
    target, loss, step = float(other.evals.val_loss[-1]), run.evals.val_loss, run.evals.step
    below = np.flatnonzero(loss <= target)
    if not len(below) or below[0] == 0:
        return None  # as good without training says nothing of training
    i = int(below[0])
    share = (loss[i - 1] - target) / (loss[i - 1] - loss[i])
    return float(step[i - 1] + share * (step[i] - step[i - 1]))


def _geometric(factors: list[float]) -> tuple[float | None, Bounds | None]:
    if not factors:
        return None, None
    logs = statistics.mean(np.log(factors).tolist())
    interval = logs.ci95
    return float(np.exp(logs.mean)), (
        float(np.exp(interval[0])),
        float(np.exp(interval[1])),
    ) if interval else None


def leaders(found: list[Ranking]) -> dict[str, list[BudgetKind]]:
    """Return who leads where: the leading entries, each with the budgets at which it does; one if all agree."""
    leaders: dict[str, list[BudgetKind]] = {}
    for ranking in found:
        leaders.setdefault(next(iter(ranking.val_loss)), []).append(ranking.budget_kind)
    return leaders
