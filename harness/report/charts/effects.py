"""Differences from the baseline and effects of each level, with intervals and verdicts."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from harness.analysis.candidates import Candidate, find_candidates
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.pairs import METRIC_NAMES
from harness.analysis.summary import Summary
from harness.report.charts.entries import MAX_EFFECTS, MAX_ENTRIES
from harness.report.charts.spec import Axis, ChartSpec, Interval, IntervalRow, Intervals
from harness.report.charts.style import VERDICTS, choose_style
from harness.report.formatting import count, significant_figures
from harness.results.records.comparisons import Effect, MetricTests, PooledResult, Quantity
from harness.results.records.estimates import Bounds
from harness.results.titles import SEPARATOR

HOW = " Colour, marker and word: the verdict."
NATS = "nats per token"
MAX_FACTOR = 4  # between a throughput and the baseline's: intervals beyond it are cut
IN_NATS = (None, "nats per token")  # units of a tested difference that share the chart's axis
POOLED = "all contexts"
SIMULTANEOUS = "95 % interval, for all rows at once"
DIFFERENCES: Mapping[Quantity, str] = {
    "val_loss": "Validation loss minus the baseline's",
    "tokens_per_s": "Throughput relative to the baseline's",
}


def throughput(summary: Summary) -> Iterator[ChartSpec]:
    """Return the tested differences in throughput from the baseline, in %."""
    rows = _difference_rows(summary, summary.metric_tests["tokens_per_s"], summary.study.entries)
    if rows:
        yield _differences("differences_tokens_per_s", summary, "tokens_per_s", rows)


def losses(summary: Summary) -> Iterator[ChartSpec]:
    """Return the tested differences in the loss from the baseline, in nats."""
    rows = _difference_rows(summary, summary.metric_tests["val_loss"], summary.study.entries)
    if rows:
        yield _differences("differences", summary, "val_loss", rows)


def by_context(summary: Summary) -> Iterator[ChartSpec]:
    """Return the tested differences in the loss in each context, and those that are pooled.

    Only the contexts that change the loss count: another parallelism repeats it.
    """
    study = summary.study
    tests = summary.metric_tests["val_loss"]
    if not study.contexts:
        return
    rows: list[IntervalRow] = []
    for candidate in find_candidates(study)[:MAX_ENTRIES]:
        others = [entry for entry in candidate.entries if _is_other(study, entry, candidate)]
        name = candidate.title
        own = _difference_rows(summary, tests, others)
        rows += [replace(row, group=name) for row in own]
        pooled = [one for one in tests.pooled if one.levels.items() <= candidate.main.axes.items()]
        rows += _pooled_rows(name, pooled if own else [])
    if rows:
        yield _differences("differences", summary, "val_loss", rows)


def _pooled_rows(name: str, pooled: Sequence[PooledResult]) -> Iterator[IntervalRow]:
    """Yield the row of each pooled difference of a candidate that has an interval in nats."""
    for result in pooled:
        bounds = result.difference.ci95
        if result.verdict and bounds and result.unit in IN_NATS:
            title = f"{name}{SEPARATOR}{POOLED}"
            style = VERDICTS[result.verdict]
            yield IntervalRow(title, result.difference.mean, bounds, result.verdict, style, name)


def _is_other(study: StudyResults, entry: Entry, candidate: Candidate) -> bool:
    """Return whether an entry is compared with one of another candidate."""
    base = study.baseline_of(entry)
    return base is not None and base not in candidate.entries


def _differences(
    name: str, summary: Summary, metric: Quantity, rows: Sequence[IntervalRow]
) -> ChartSpec:
    tests = summary.metric_tests[metric]
    is_loss = metric == "val_loss"
    title = DIFFERENCES[metric]
    unit = NATS if is_loss else "%"
    margin = margin_bounds(tests)
    threshold = superiority_bound(tests)
    side = "left" if is_loss else "right"
    x = Axis(f"difference, {unit}", None if is_loss else _ratio_limits(rows))
    return ChartSpec(
        name=name,
        title=title,
        subtitle=f"paired by seed, {side} is better; line: {SIMULTANEOUS}"
        + _band(margin)
        + ("" if threshold is None else "; dashed: threshold of superiority")
        + _arrows(x),
        note=HOW + _without_interval(tests),
        alt=f"{title}: {_finding(rows, count(len(rows), 'row'), unit)}",
        plot=Intervals(x, rows, margin, threshold),
    )


def _ratio_limits(rows: Sequence[IntervalRow]) -> Interval | None:
    """Return the limits of an axis in % if an interval reaches beyond a factor of `MAX_FACTOR`.

    The limits are this factor, or wider if an estimate is beyond it.
    """
    lowest = _percent(-math.log(MAX_FACTOR))
    highest = _percent(math.log(MAX_FACTOR))
    if all(lowest <= row.interval[0] and row.interval[1] <= highest for row in rows):
        return None
    values = [row.value for row in rows]
    return min([lowest, *values]), max([highest, *(1.1 * value for value in values)])


def _arrows(x: Axis) -> str:
    return f"; arrow: beyond a factor of {MAX_FACTOR}" if x.limits else ""


def _difference_rows(
    summary: Summary, tests: MetricTests, entries: Sequence[Entry]
) -> list[IntervalRow]:
    """Return a row for each entry with a verdict and an interval in the unit of the chart."""
    chosen = choose_style(summary.study)
    is_loss = tests.quantity == "val_loss"
    rows = []
    for entry in entries:
        test = tests.entries.get(entry.label)
        if test and test.verdict and test.difference.ci95 and test.unit is None:
            value, low, high = (
                number if is_loss else _percent(number)
                for number in (test.difference.mean, *test.difference.ci95)
            )
            style = VERDICTS[test.verdict]
            group = chosen.group(entry)
            rows.append(IntervalRow(entry.label, value, (low, high), test.verdict, style, group))
    return rows


def _without_interval(tests: MetricTests) -> str:
    """Say how many entries lost seeds and therefore have no interval."""
    n_lost = sum(
        bool(test.lost_seeds) and test.difference.ci95 is None for test in tests.entries.values()
    )
    return f" {count(n_lost, 'entry', 'entries')} with lost seeds left out." if n_lost else ""


def margin_bounds(tests: MetricTests) -> Interval | None:
    """Return the ends of the equivalence margin in the unit of the chart."""
    if tests.margin is None:
        return None
    if tests.quantity == "val_loss":
        return -tests.margin, tests.margin
    return _percent(-tests.margin), _percent(tests.margin)


def superiority_bound(tests: MetricTests) -> float | None:
    """Return the least difference of a superior entry in the unit of the chart."""
    if tests.superiority is None:
        return None
    if tests.quantity == "val_loss":
        return -tests.superiority
    return _percent(tests.superiority)


def effects(summary: Summary) -> Iterator[ChartSpec]:
    """Return one chart per metric: the effects of levels and pairs of levels.

    A study with one axis has none, because the effects would be the differences.
    """
    if len(summary.study.varying()) < 2:
        return
    for tests in summary.metric_tests.values():
        tested = (*tests.main_effects, *tests.interactions)
        known = [effect for effect in tested if effect.verdict and _bounds(effect)]
        if known:
            yield _effects(summary.study, tests, known)


def _clearest(effects: Sequence[Effect]) -> list[Effect]:
    """Return the main effects and the smallest p, `MAX_EFFECTS` in all; exact effects by size."""

    def rank(effect: Effect) -> tuple[int, float, float]:
        size = abs(effect.estimate or 0.0)
        return len(effect.levels), 1.0 if effect.p is None else effect.p, -size

    clearest = sorted(effects, key=rank)[:MAX_EFFECTS]
    return [effect for effect in effects if effect in clearest]


def _effects(study: StudyResults, tests: MetricTests, known: Sequence[Effect]) -> ChartSpec:
    is_loss = tests.quantity == "val_loss"
    unit = NATS if is_loss else "%"
    rows = [_row(study, effect, is_loss) for effect in _clearest(known)]
    margin = margin_bounds(tests)
    metric = METRIC_NAMES[tests.quantity]
    note = f" Each row is the change for a level or a pair of levels.{HOW}"
    if len(known) > len(rows):
        note += f" {len(rows)} of {len(known):,} effects: main effects, then the clearest."
    x = Axis(f"change in {unit}", None if is_loss else _ratio_limits(rows))
    return ChartSpec(
        name=f"effects_{tests.quantity}",
        title=f"Effects on {metric}",
        subtitle="against the baseline's level, averaged over the other axes"
        + ("; line: 95 % interval, simultaneous" if any(one.ci95 for one in known) else "")
        + _band(margin)
        + _arrows(x),
        note=note,
        alt=f"Effects on {metric}: {_finding(rows, count(len(rows), 'effect'), unit)}",
        plot=Intervals(x, rows, margin),
    )


def _row(study: StudyResults, effect: Effect, is_loss: bool) -> IntervalRow:
    bounds = _bounds(effect)
    assert effect.estimate is not None
    assert effect.verdict is not None
    assert bounds is not None
    value, low, high = (
        number if is_loss else _percent(number) for number in (effect.estimate, *bounds)
    )
    levels = effect.levels.items()
    name = " with ".join(f"{axis} {study.title(axis, label)}" for axis, label in levels)
    group = "main effect" if len(effect.levels) == 1 else "interaction"
    style = VERDICTS[effect.verdict]
    return IntervalRow(name, value, (low, high), effect.verdict, style, group)


def _bounds(effect: Effect) -> Bounds | None:
    """Return the interval of an effect, of no width if it is exact; None if seeds are lost."""
    is_void = effect.verdict == "unresolved"
    if effect.estimate is not None and effect.method == "exact" and not is_void:
        return effect.estimate, effect.estimate
    return effect.ci95


def _band(margin: Interval | None) -> str:
    return "" if margin is None else "; grey: equivalence margin"


def _percent(log_ratio: float) -> float:
    return 100 * math.expm1(log_ratio)


def _finding(rows: Sequence[IntervalRow], counted: str, unit: str) -> str:
    """Return how many rows have which verdict, and the largest resolved change."""
    verdicts = [row.verdict for row in rows]
    counts = [f"{verdicts.count(name)} {name}" for name in VERDICTS if name in verdicts]
    text = f"{counted}, {', '.join(counts)}"
    resolved = [row for row in rows if row.verdict in ("better", "worse")]
    if not resolved:
        return text + "."
    largest = max(resolved, key=lambda row: abs(row.value))
    value = significant_figures(abs(largest.value))
    sign = "-" if largest.value < 0 else "+"
    return f"{text}; largest change: {largest.name}, {sign}{value} {unit}."
