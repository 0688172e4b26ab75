"""Equal tuning: choose the settings of each entry, and compare before and after.

Every entry tries the same settings, on seeds and validation windows that no verdict uses. The best
has the lowest mean loss over the tuning seeds. A trial that fails counts as an infinite loss.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from harness.analysis import intervals
from harness.analysis.dataset import Entry, StudyResults
from harness.results.records import (
    Setting,
    SettingValues,
    TunedEntry,
    TunedRange,
    TuneSettings,
    TuningTrial,
)
from harness.results.records.comparisons import MetricTests, SignificanceResult
from harness.results.records.tuning import (
    TUNED,
    TUNING,
    UNTUNED,
    SettingResult,
    TunedKey,
    TuningComparison,
    TuningCost,
    TuningOutcome,
    TuningResults,
    as_setting,
)
from harness.results.run_data import RunData

Edge = Literal["lowest", "highest"]

DIFFERENCES = ("better", "worse")  # verdicts that state a difference
SIGNIFICANT_DIGITS = 3  # of suggested values


# -- the choice -----------------------------------------------------------------------------------


def mean_losses(trials: Iterable[RunData]) -> dict[int, float]:
    """Return the mean final loss over the seeds of each setting, by its number."""
    losses: dict[int, list[float]] = {}
    for run in trials:
        loss = run.final_loss if run.status == "done" else math.inf
        losses.setdefault(trial_of(run).index, []).append(loss)
    return {index: float(np.mean(values)) for index, values in losses.items()}


def rank_settings(trials: Sequence[RunData]) -> list[int]:
    """Return the numbers of the settings of one entry and rung, the lowest mean loss first.

    Equal losses are ordered by the distance from the middle of the values, then by number.
    """
    losses = mean_losses(trials)
    settings = {trial_of(run).index: trial_of(run).settings for run in trials}
    distances = _distances(settings)
    return sorted(losses, key=lambda index: (losses[index], distances[index], index))


def _distances(settings: Mapping[int, SettingValues]) -> dict[int, float]:
    """Return how far each setting is from the middle of the values, in places summed over keys."""
    distances = dict.fromkeys(settings, 0.0)
    for key in next(iter(settings.values()), {}):
        values = sorted({found[key] for found in settings.values()}, key=_order)
        middle = (len(values) - 1) / 2
        for index, found in settings.items():
            distances[index] += abs(values.index(found[key]) - middle)
    return distances


def _order(value: Setting) -> tuple[float, str]:
    return (float(value), "") if isinstance(value, int | float) else (0.0, str(value))


def choose(tuned: TunedEntry, trials: Sequence[RunData]) -> TunedEntry:
    """Return the tuning of an entry with its choice, from all of its trials, which have ended.

    The trials of the last rung decide. If each setting has a trial that failed, none is chosen.
    """
    last_rung = max(trial_of(run).rung for run in trials)
    deciding = [run for run in trials if trial_of(run).rung == last_rung]
    best = rank_settings(deciding)[0]
    loss = mean_losses(deciding)[best]
    failed = [run.run_id for run in trials if run.status != "done"]
    update: dict[str, object] = {"chosen": None, "val_loss": None, "failed": failed}
    if math.isfinite(loss):
        chosen = next(trial_of(run).settings for run in deciding if trial_of(run).index == best)
        update |= {"chosen": chosen, "val_loss": loss}
    return tuned.model_copy(update=update)


def trial_of(run: RunData) -> TuningTrial:
    """Return the place of a trial in its entry's tuning."""
    trial = run.spec.tuning
    assert trial is not None, f"{run.run_id} is not a trial"
    return trial


# -- the results ----------------------------------------------------------------------------------


def results(study: StudyResults, losses: MetricTests) -> TuningResults | None:
    """Return the tuning of a study, None if it does not tune; `losses` are its tests of the loss.

    Only the trials that the record of the tuning names count: others may have tried more settings.
    """
    record = study.tuning
    if record is None:
        return None
    by_id = {run.run_id: run for run in study.trials}
    trials: list[SettingResult] = []
    keys: list[TunedKey] = []
    costs: list[TuningCost] = []
    for tuned in record.entries:
        runs = [by_id[run_id] for run_id in tuned.trials if run_id in by_id]
        trials += _setting_results(tuned, runs)
        keys += _tuned_keys(record.settings, tuned, runs)
        costs.append(_cost(tuned, runs))
    return TuningResults(
        settings=record.settings,
        trials=trials,
        keys=keys,
        costs=costs,
        comparisons=list(_comparisons(study, losses)),
    )


def _setting_results(tuned: TunedEntry, runs: Sequence[RunData]) -> Iterator[SettingResult]:
    groups: dict[tuple[int, int], list[RunData]] = {}
    for run in runs:
        trial = trial_of(run)
        groups.setdefault((trial.rung, trial.index), []).append(run)
    last_rung = max((rung for rung, _ in groups), default=0)
    for (rung, _), group in sorted(groups.items()):
        done = [run for run in group if run.status == "done"]
        found = [run.final_loss for run in done]
        settings = trial_of(group[0]).settings
        failed = [run.seed for run in group if run.status == "failed"]
        yield SettingResult(
            entry=tuned.entry,
            rung=rung,
            steps=group[0].resolved.train.steps,
            setting=group[0].labels[TUNING],
            settings=settings,
            seeds=[run.seed for run in done],
            seeds_failed=failed,
            val_loss=intervals.mean(found) if found and not failed else None,
            val_loss_by_seed=found,
            chosen=rung == last_rung and settings == tuned.chosen,
        )


def _tuned_keys(
    settings: TuneSettings, tuned: TunedEntry, runs: Sequence[RunData]
) -> Iterator[TunedKey]:
    n_values = math.ceil(settings.budget ** (1 / len(settings.axes)))
    for key, space in settings.axes.items():
        tried = {trial_of(run).settings[key] for run in runs}
        edge: Edge | None = None
        suggested: Setting | None = None
        chosen = tuned.chosen[key] if tuned.chosen else None
        if chosen is not None:
            edge, suggested = find_edge(key, space, chosen, tried, n_values)
        yield TunedKey(
            entry=tuned.entry,
            key=key,
            untuned=tuned.untuned[key],
            chosen=chosen,
            edge=edge,
            suggested=suggested,
        )


def find_edge(
    key: str,
    space: Sequence[Setting] | TunedRange,
    chosen: Setting,
    tried: Iterable[Setting],
    n_values: int,
) -> tuple[Edge | None, Setting | None]:
    """Return whether a chosen value is at the edge of the values tried, and the next one beyond.

    The next value continues the ratio of the last two values of a list (their difference if the
    ratio leads nowhere); a range of `n_values` values is continued likewise. An edge beyond which
    the setting allows no value, such as a weight decay of 0, is none.
    """
    numbers = sorted(x for x in tried if isinstance(x, int | float) and not isinstance(x, bool))
    if len(numbers) < 2 or chosen not in (numbers[0], numbers[-1]):
        return None, None
    edge: Edge = "lowest" if chosen == numbers[0] else "highest"
    end = numbers[0] if edge == "lowest" else numbers[-1]
    neighbour = numbers[1] if edge == "lowest" else numbers[-2]
    if isinstance(space, TunedRange):
        end = space.low if edge == "lowest" else space.high
        neighbour = _within(space, edge, n_values)
        if (chosen > neighbour) if edge == "lowest" else (chosen < neighbour):
            return None, None
    for beyond in _beyond(end, neighbour):
        try:
            suggested = as_setting(key, round(beyond) if isinstance(chosen, int) else beyond)
        except ValueError:
            continue
        if suggested != chosen:
            return edge, suggested
    return None, None


def _within(space: TunedRange, edge: Edge, n_values: int) -> float:
    """Return the place of a range's first of `n_values` equal parts that ends at the edge."""
    fraction = 1 / n_values if edge == "lowest" else 1 - 1 / n_values
    if space.log:
        return float(space.low * (space.high / space.low) ** fraction)
    return space.low + (space.high - space.low) * fraction


def _beyond(end: float, neighbour: float) -> Iterator[float]:
    """Yield candidates for the value that follows `end`, by ratio and by difference."""
    if end > 0 and neighbour > 0:
        yield float(f"{end * end / neighbour:.{SIGNIFICANT_DIGITS}g}")
    yield float(f"{2 * end - neighbour:.{SIGNIFICANT_DIGITS}g}")


def _cost(tuned: TunedEntry, runs: Sequence[RunData]) -> TuningCost:
    done = [run for run in runs if run.status == "done"]
    return TuningCost(
        entry=tuned.entry,
        n_settings=len({trial_of(run).index for run in runs}),
        n_runs=len(tuned.trials),
        n_done=len(done),
        n_failed=sum(run.status == "failed" for run in runs),
        flops=float(sum(run.known_flops_per_token * (run.n_tokens or 0) for run in done)),
        train_s=float(sum(run.evals.train_s[-1] for run in done)),
    )


def _comparisons(study: StudyResults, losses: MetricTests) -> Iterator[TuningComparison]:
    """Yield the verdicts of each entry before and after tuning, each within its context."""
    for entry in study.entries:
        base = study.baseline_of(entry)
        tuned = study.find(entry.axes | {TUNING: TUNED})
        if entry.axes.get(TUNING) != UNTUNED or base is None:
            continue
        before = losses.entries.get(entry.label)
        after = losses.entries.get(tuned.label) if tuned else None
        yield TuningComparison(
            entry=untuned_name(entry),
            against=untuned_name(base),
            outcome=outcome(before, after),
            untuned=before.difference if before else None,
            untuned_verdict=before.verdict if before else None,
            tuned=after.difference if after else None,
            tuned_verdict=after.verdict if after else None,
        )


def untuned_name(entry: Entry) -> str:
    """Return the label of an entry without its level on the axis `tuning`, which is the last."""
    return entry.label.removesuffix(f"-{entry.axes[TUNING]}")


def outcome(
    before: SignificanceResult | None, after: SignificanceResult | None
) -> TuningOutcome | None:
    """Return how a verdict changes when both entries are tuned; None without both verdicts.

    A difference `vanishes` if the tuned entries are equivalent, or if the interval of their
    difference excludes the untuned difference; otherwise an unresolved one is `not shown`. A
    difference that stays `shrinks` or `grows` if the interval excludes the untuned difference.
    """
    if before is None or after is None or before.verdict is None or after.verdict is None:
        return None
    differs_after = after.verdict in DIFFERENCES
    if before.verdict not in DIFFERENCES:
        return "appears" if differs_after else "no difference shown"
    low, high = after.difference.ci95 or (-math.inf, math.inf)
    is_excluded = not low <= before.difference.mean <= high
    if differs_after and after.verdict != before.verdict:
        return "reverses"
    if differs_after and is_excluded:
        is_smaller = abs(after.difference.mean) < abs(before.difference.mean)
        return "shrinks" if is_smaller else "grows"
    if differs_after:
        return "holds"
    return "vanishes" if after.verdict == "equivalent" or is_excluded else "not shown"
