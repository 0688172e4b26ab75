"""Rank entries at equal tokens, FLOPs, time or parameters, and price the baseline's loss.

The ranking depends on the budget: a variant that learns more per token may learn less per second.
Losses between two evaluations are interpolated linearly.

The cost of a loss is what a run spends until it first reaches it, on both sides: a baseline that
overfits reaches its final loss long before its end. A loss is reached within a margin, so that
rounding does not decide. A run that never reaches it costs more than all it spent: its ratio is a
bound, and so is the geometric mean over seeds, in which the bound replaces the ratio. The loss of
the entry is priced in the same way, which gives a ratio below 1 to an entry that is worse.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from harness.analysis import comparability, intervals, lost_seeds, machines
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.metrics import PARALLELISM, final_losses
from harness.results.records.comparisons import BudgetKind, CostToBaselineLoss, Ranking
from harness.results.records.estimates import Bounds, Mean
from harness.results.run_data import RunData

Spent = Callable[[RunData], np.ndarray]  # amount spent until each evaluation, (n_evals,)
SAME_SIZE = 0.01  # relative: entries whose parameters differ by no more have equal size
SAME_LOSS = 1e-3  # nats per token: differences of final losses that rounding may cause


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
    compiler gave up, or on other machines than the baseline, are not ranked by time.
    """
    ranked = []
    for context, entries in study.by_context().items():
        done = on_common_seeds(study, [entry for entry in entries if entry.done])
        if len(done) > 1:
            ranked += _rankings(study, context, done)
    return ranked


def on_common_seeds(study: StudyResults, entries: list[Entry]) -> list[Entry]:
    """Return entries with the seeds of the first look, if looks gave them different numbers.

    Entries stop because of their results, so that only these seeds are the same for all.
    """
    if study.looks is None or study.looks.is_fixed:
        return entries
    first = study.looks.looks[0].seeds
    return [entry.on_seeds(first) for entry in entries if entry.on_seeds(first).done]


def _rankings(study: StudyResults, context: str, done: list[Entry]) -> list[Ranking]:
    base = study.baseline_in_context(done[0])
    done = [entry for entry in done if comparability.in_nats(entry, base or done[0])]
    parallelism = study.baseline.get(PARALLELISM)
    distinct = [entry for entry in done if entry.axes.get(PARALLELISM) == parallelism] or done
    timed = [entry for entry in done if not any(run.is_partly_compiled for run in entry.done)]
    timed = machines.on_equal_machines(timed, base, machines.train_time_reason)
    ranked = []
    for kind, spent in SPENT.items():
        entries = timed if kind == "train_s" else distinct
        entries = [entry for entry in entries if _is_known(spent, entry)]
        ranked.append(_ranking(entries, partial(_at_equal, kind, spent)))
    if base is not None and base.done and base.done[0].parameters:
        size = float(base.done[0].parameters)
        equal = [entry for entry in distinct if _has_size(entry, size)]
        ranked.append(_ranking(equal, partial(_of_equal_size, size)))
    in_context = {"context": context}
    return [row.model_copy(update=in_context) for row in ranked if row and len(row.val_loss) > 1]


def _ranking(entries: list[Entry], rank: Callable[[list[Entry]], Ranking]) -> Ranking | None:
    """Rank the entries whose seeds are not a selection; None without any."""
    selected = lost_seeds.selected(entries)
    kept = [entry for entry in entries if entry.label not in selected]
    if not kept:
        return None
    lost = [entry.label for entry in entries if entry.label in selected]
    return rank(kept).model_copy(update={"lost": lost})


def _is_known(spent: Spent, entry: Entry) -> bool:
    """Return whether the amounts of all runs are known; those of imported runs may not be."""
    amounts = [spent(run) for run in entry.done]
    return all(len(values) > 0 and bool(np.isfinite(values).all()) for values in amounts)


def _at_equal(kind: BudgetKind, spent: Spent, entries: list[Entry]) -> Ranking:
    budget = min(float(spent(run)[-1]) for entry in entries for run in entry.done)
    losses = {}
    for entry in entries:
        values = [float(np.interp(budget, spent(run), run.evals.val_loss)) for run in entry.done]
        losses[entry.label] = values
    return Ranking(budget_kind=kind, budget=budget, val_loss=_sorted(losses))


def _has_size(entry: Entry, size: float) -> bool:
    return abs((entry.done[0].parameters or np.nan) / size - 1) <= SAME_SIZE


def _of_equal_size(size: float, entries: list[Entry]) -> Ranking:
    losses = {entry.label: list(final_losses(entry).values()) for entry in entries}
    return Ranking(budget_kind="parameters", budget=size, val_loss=_sorted(losses))


def _sorted(losses: dict[str, list[float]]) -> dict[str, Mean]:
    """Return the means in ascending order, without intervals: the first is selected from many."""
    means = {}
    for label, values in losses.items():
        means[label] = Mean(mean=float(np.mean(values)), ci95=None, n=len(values))
    return dict(sorted(means.items(), key=lambda item: item[1].mean))


def savings(study: StudyResults) -> list[CostToBaselineLoss]:
    """Return each entry's cost against its baseline's, if the two share a seed that is done."""
    margin = max(study.margins.get("val_loss", 0.0), SAME_LOSS)
    costs = []
    for entries in study.by_context().values():
        selected = lost_seeds.selected(entries)
        for entry in entries:
            base = study.baseline_of(entry)
            if base is None or not comparability.in_nats(entry, base):
                continue
            if not (_is_known(_tokens, entry) and _is_known(_tokens, base)):
                continue
            cost = _cost(entry, base, margin, bool(selected & {entry.label, base.label}))
            if cost:
                costs.append(cost)
    order = {entry.label: i for i, entry in enumerate(study.entries)}
    return sorted(costs, key=lambda cost: order[cost.entry])


@dataclass(frozen=True)
class _Pair:
    """The runs of one seed, and the first step at which each reaches a loss; None if it does not.

    A run that does not reach the loss costs more than all that it has spent.
    """

    run: RunData
    base: RunData
    step: float | None
    base_step: float | None

    def log_ratio(self, spent: Spent) -> float:
        """Return the logarithm of the baseline's cost over the entry's."""
        run_cost = _cost_until(self.step, self.run, spent)
        base_cost = _cost_until(self.base_step, self.base, spent)
        known = min(run_cost, base_cost) > 0
        return float(np.log(base_cost / run_cost)) if known else math.nan


def _cost(entry: Entry, base: Entry, margin: float, is_selected: bool) -> CostToBaselineLoss | None:
    """Return the cost of an entry; no ratio if one of the two has seeds that are a selection."""
    base_runs = {run.seed: run for run in base.done}
    runs = [(run, base_runs[run.seed]) for run in entry.done if run.seed in base_runs]
    runs = [pair for pair in runs if min(len(run.evals.step) for run in pair) > 1]
    if not runs:
        return None
    at_base = [_pair(run, other, other.final_loss + margin) for run, other in runs]
    at_entry = [_pair(run, other, run.final_loss + margin) for run, other in runs]
    is_timed = not is_selected and not any(run.is_partly_compiled for pair in runs for run in pair)
    is_timed = is_timed and _is_known(_train_s, entry) and _is_known(_train_s, base)
    tokens = _ratio(at_base, _tokens, not is_selected)
    train_s = _ratio(_on_one_machine(at_base), _train_s, is_timed)
    entry_tokens = _ratio(at_entry, _tokens, not is_selected)
    entry_train_s = _ratio(_on_one_machine(at_entry), _train_s, is_timed)
    return CostToBaselineLoss(
        entry=entry.label,
        against=base.label,
        margin=margin,
        seeds=[pair.run.seed for pair in at_base if pair.step is not None],
        not_reached=[pair.run.seed for pair in at_base if pair.step is None],
        baseline_not_reached=[pair.run.seed for pair in at_entry if pair.base_step is None],
        lost_seeds=sorted({*entry.lost_seeds, *base.lost_seeds}),
        tokens_ratio=tokens.value,
        tokens_ratio_ci95=tokens.ci95,
        tokens_ratio_at_most=tokens.bound,
        train_time_ratio=train_s.value,
        train_time_ratio_ci95=train_s.ci95,
        train_time_ratio_at_most=train_s.bound,
        tokens_ratio_at_entry_loss=entry_tokens.value,
        tokens_ratio_at_entry_loss_ci95=entry_tokens.ci95,
        tokens_ratio_at_entry_loss_at_least=entry_tokens.bound,
        train_time_ratio_at_entry_loss=entry_train_s.value,
        train_time_ratio_at_entry_loss_ci95=entry_train_s.ci95,
        train_time_ratio_at_entry_loss_at_least=entry_train_s.bound,
    )


@dataclass(frozen=True)
class _Ratio:
    """A geometric mean over seeds with its interval, or its bound if a run never gets there."""

    value: float | None = None
    ci95: Bounds | None = None
    bound: float | None = None


def _ratio(pairs: list[_Pair], spent: Spent, is_known: bool) -> _Ratio:
    """Return the baseline's cost over the entry's; empty if it is not known."""
    logs = [pair.log_ratio(spent) for pair in pairs]
    if not is_known or not logs or not np.isfinite(logs).all():
        return _Ratio()
    mean = intervals.mean(logs)
    value = float(np.exp(mean.mean))
    if any(None in (pair.step, pair.base_step) for pair in pairs):
        return _Ratio(bound=value)
    if mean.ci95 is None:
        return _Ratio(value)
    low, high = mean.ci95
    return _Ratio(value, (float(np.exp(low)), float(np.exp(high))))


def _on_one_machine(pairs: list[_Pair]) -> list[_Pair]:
    return [pair for pair in pairs if machines.train_time_reason(pair.run, pair.base) is None]


def _pair(run: RunData, base: RunData, target: float) -> _Pair:
    return _Pair(run, base, step_reaching(run, target), step_reaching(base, target))


def _cost_until(step: float | None, run: RunData, spent: Spent) -> float:
    """Return the amount spent until a step, at least that of the first; until the end for None."""
    amounts = spent(run)
    return float(amounts[-1] if step is None else np.interp(max(step, 1), run.evals.step, amounts))


def step_reaching(run: RunData, target: float) -> float | None:
    """Return the interpolated step at which a run's validation loss is first at most a target.

    It is the step of the first evaluation if that has reached it already; None if none has.
    """
    finite = np.isfinite(run.evals.val_loss)
    loss = run.evals.val_loss[finite]
    step = run.evals.step[finite]
    reached = np.flatnonzero(loss <= target)
    if not len(reached):
        return None
    i = int(reached[0])
    if i == 0:
        return float(step[0])
    fraction = (loss[i - 1] - target) / (loss[i - 1] - loss[i])
    return float(step[i - 1] + fraction * (step[i] - step[i - 1]))


def leaders(rankings: list[Ranking]) -> dict[str, list[BudgetKind]]:
    """Return the leading entries, each with the budgets under which it leads."""
    kinds: dict[str, list[BudgetKind]] = {}
    for ranking in rankings:
        kinds.setdefault(next(iter(ranking.val_loss)), []).append(ranking.budget_kind)
    return kinds
