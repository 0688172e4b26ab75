"""Rank entries at equal tokens, FLOPs, time or parameters, and price the baseline's loss.

The ranking depends on the budget: a variant that learns more per token may learn less per second.
Losses between two evaluations are interpolated linearly.
"""

from collections.abc import Callable

import numpy as np

from harness.analysis import comparability, intervals
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.metrics import PARALLELISM, final_losses
from harness.results.records.estimates import Bounds, Mean
from harness.results.records.study_summary import BudgetKind, CostToBaselineLoss, Ranking
from harness.results.run_data import RunData

Spent = Callable[[RunData], np.ndarray]  # amount spent until each evaluation, (n_evals,)
SAME_SIZE = 0.01  # relative: entries whose parameters differ by no more have equal size


def _tokens(run: RunData) -> np.ndarray:
    return run.tokens_at_evals


def _flops(run: RunData) -> np.ndarray:
    return _tokens(run) * (run.flops_per_token or np.nan)


def _train_s(run: RunData) -> np.ndarray:
    return run.evals.train_s


SPENT: dict[BudgetKind, Spent] = {"tokens": _tokens, "flops": _flops, "train_s": _train_s}


def rankings(study: StudyResults) -> list[Ranking]:
    """Return a ranking for each context and budget that has at least two entries that are done.

    Entries whose losses are not comparable in nats per token are not ranked. Entries on which the
    compiler gave up are not ranked by time.
    """
    ranked = []
    for context, entries in study.by_context().items():
        done = [entry for entry in entries if entry.done]
        if len(done) > 1:
            ranked += _rankings(study, context, done)
    return ranked


def _rankings(study: StudyResults, context: str, done: list[Entry]) -> list[Ranking]:
    base = study.baseline_in_context(done[0])
    done = [entry for entry in done if comparability.in_nats(entry, base or done[0])]
    parallelism = study.baseline.get(PARALLELISM)
    distinct = [entry for entry in done if entry.axes.get(PARALLELISM) == parallelism] or done
    timed = [entry for entry in done if not any(run.is_partly_compiled for run in entry.done)]
    ranked = []
    for kind, spent in SPENT.items():
        entries = timed if kind == "train_s" else distinct
        entries = [entry for entry in entries if _is_known(spent, entry)]
        if entries:
            ranked.append(_at_equal(kind, spent, entries))
    if base is not None and base.done and base.done[0].parameters:
        ranked.append(_of_equal_size(base, distinct))
    in_context = {"context": context}
    return [row.model_copy(update=in_context) for row in ranked if len(row.val_loss) > 1]


def _is_known(spent: Spent, entry: Entry) -> bool:
    """Return whether the amounts of all runs are known; those of imported runs may not be."""
    amounts = [spent(run) for run in entry.done]
    return all(len(values) > 0 and bool(np.isfinite(values).all()) for values in amounts)


def _at_equal(kind: BudgetKind, spent: Spent, entries: list[Entry]) -> Ranking:
    budget = min(float(spent(run)[-1]) for entry in entries for run in entry.done)
    losses = {}
    for entry in entries:
        values = [float(np.interp(budget, spent(run), run.evals.val_loss)) for run in entry.done]
        losses[entry.label] = intervals.mean(values)
    return Ranking(budget_kind=kind, budget=budget, val_loss=_sorted(losses))


def _of_equal_size(base: Entry, entries: list[Entry]) -> Ranking:
    size = float(base.done[0].parameters or np.nan)
    losses = {
        entry.label: intervals.mean(list(final_losses(entry).values()))
        for entry in entries
        if abs((entry.done[0].parameters or np.nan) / size - 1) <= SAME_SIZE
    }
    return Ranking(budget_kind="parameters", budget=size, val_loss=_sorted(losses))


def _sorted(losses: dict[str, Mean]) -> dict[str, Mean]:
    return dict(sorted(losses.items(), key=lambda item: item[1].mean))


def savings(study: StudyResults) -> list[CostToBaselineLoss]:
    """Return each entry's cost to the baseline's loss, if the two share a seed that is done."""
    costs = []
    for entry in study.entries:
        base = study.baseline_of(entry)
        if base is None or not comparability.in_nats(entry, base):
            continue
        if not (_is_known(_tokens, entry) and _is_known(_tokens, base)):
            continue
        cost = _cost(entry, base)
        if cost:
            costs.append(cost)
    return costs


def _cost(entry: Entry, base: Entry) -> CostToBaselineLoss | None:
    base_runs = {run.seed: run for run in base.done}
    pairs = [(run, base_runs[run.seed]) for run in entry.done if run.seed in base_runs]
    if not pairs:
        return None
    not_reached = []
    steps: dict[int, float] = {}
    for run, other in pairs:
        step = step_reaching_baseline(run, other)
        if step is None:
            not_reached.append(run.seed)
        else:
            steps[run.seed] = step

    def ratios(spent: Spent) -> list[float]:
        return [
            spent(other)[-1] / float(np.interp(steps[run.seed], run.evals.step, spent(run)))
            for run, other in pairs
            if run.seed in steps
        ]

    tokens_ratio, tokens_bounds = _geometric_mean(ratios(_tokens))
    is_timed = not any(run.is_partly_compiled for pair in pairs for run in pair)
    is_timed = is_timed and _is_known(_train_s, entry) and _is_known(_train_s, base)
    time_ratio, time_bounds = _geometric_mean(ratios(_train_s) if is_timed else [])
    return CostToBaselineLoss(
        entry=entry.label,
        against=base.label,
        seeds=list(steps),
        not_reached=not_reached,
        tokens_ratio=tokens_ratio,
        tokens_ratio_ci95=tokens_bounds,
        train_time_ratio=time_ratio,
        train_time_ratio_ci95=time_bounds,
    )


def step_reaching_baseline(run: RunData, baseline: RunData) -> float | None:
    """Return the interpolated step at which a run first reaches the baseline's final loss.

    None if it never does, or if it does so before the first step.
    """
    target = baseline.final_loss
    loss = run.evals.val_loss
    step = run.evals.step
    reached = np.flatnonzero(loss <= target)
    if not len(reached) or reached[0] == 0:
        return None
    i = int(reached[0])
    fraction = (loss[i - 1] - target) / (loss[i - 1] - loss[i])
    return float(step[i - 1] + fraction * (step[i] - step[i - 1]))


def _geometric_mean(ratios: list[float]) -> tuple[float | None, Bounds | None]:
    if not ratios:
        return None, None
    logs = intervals.mean(np.log(ratios).tolist())
    center = float(np.exp(logs.mean))
    if logs.ci95 is None:
        return center, None
    low, high = logs.ci95
    return center, (float(np.exp(low)), float(np.exp(high)))


def leaders(rankings: list[Ranking]) -> dict[str, list[BudgetKind]]:
    """Return the leading entries, each with the budgets under which it leads."""
    kinds: dict[str, list[BudgetKind]] = {}
    for ranking in rankings:
        kinds.setdefault(next(iter(ranking.val_loss)), []).append(ranking.budget_kind)
    return kinds
