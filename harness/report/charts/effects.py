"""Differences from the baseline and effects of each level, with intervals and verdicts."""

import math
from collections.abc import Iterator, Mapping, Sequence

from harness.analysis.pairs import METRIC_NAMES
from harness.analysis.summary import Summary
from harness.report.charts.entries import MAX_EFFECTS
from harness.report.charts.spec import Axis, ChartSpec, Interval, IntervalRow, Intervals
from harness.report.charts.style import VERDICTS, choose_style
from harness.report.formatting import count, significant_figures
from harness.results.records.comparisons import Effect, MetricTests, Quantity
from harness.results.records.estimates import Bounds

HOW = " Colour, marker and word: the verdict."
NATS = "nats per token"
SIMULTANEOUS = "95 % interval, for all rows at once"
DIFFERENCES: Mapping[Quantity, str] = {
    "val_loss": "Validation loss minus the baseline's",
    "tokens_per_s": "Throughput relative to the baseline's",
}


def differences(summary: Summary) -> Iterator[ChartSpec]:
    """Return the tested differences from the baseline: of the loss in nats, of throughput in %."""
    for metric, title in DIFFERENCES.items():
        tests = summary.metric_tests[metric]
        rows = _difference_rows(summary, tests)
        if not rows:
            continue
        is_loss = metric == "val_loss"
        unit = NATS if is_loss else "%"
        margin = margin_bounds(tests)
        threshold = superiority_bound(tests)
        side = "left" if is_loss else "right"
        n_entries = count(len(rows), "entry", "entries")
        yield ChartSpec(
            name="differences" if is_loss else f"differences_{metric}",
            title=title,
            subtitle=f"paired by seed, {side} is better; line: {SIMULTANEOUS}"
            + _band(margin)
            + ("" if threshold is None else "; dashed: threshold of superiority"),
            note=HOW + _without_interval(tests),
            alt=f"{title}: {_finding(rows, n_entries, unit)}",
            plot=Intervals(Axis(f"difference, {unit}"), rows, margin, threshold),
        )


def _difference_rows(summary: Summary, tests: MetricTests) -> list[IntervalRow]:
    """Return a row for each entry with a verdict and an interval in the unit of the chart."""
    chosen = choose_style(summary.study)
    is_loss = tests.quantity == "val_loss"
    rows = []
    for entry in summary.study.entries:
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
            yield _effects(tests, known)


def _clearest(effects: Sequence[Effect]) -> list[Effect]:
    """Return the main effects and the smallest p, `MAX_EFFECTS` in all; exact effects by size."""

    def rank(effect: Effect) -> tuple[int, float, float]:
        size = abs(effect.estimate or 0.0)
        return len(effect.levels), 1.0 if effect.p is None else effect.p, -size

    clearest = sorted(effects, key=rank)[:MAX_EFFECTS]
    return [effect for effect in effects if effect in clearest]


def _effects(tests: MetricTests, known: Sequence[Effect]) -> ChartSpec:
    is_loss = tests.quantity == "val_loss"
    unit = NATS if is_loss else "%"
    rows = [_row(effect, is_loss) for effect in _clearest(known)]
    margin = margin_bounds(tests)
    metric = METRIC_NAMES[tests.quantity]
    note = f" Each row is the change for a level or a pair of levels.{HOW}"
    if len(known) > len(rows):
        note += f" {len(rows)} of {len(known):,} effects: main effects, then the clearest."
    return ChartSpec(
        name=f"effects_{tests.quantity}",
        title=f"Effects on {metric}",
        subtitle="against the baseline's level, averaged over the other axes"
        + ("; line: 95 % interval, simultaneous" if any(one.ci95 for one in known) else "")
        + _band(margin),
        note=note,
        alt=f"Effects on {metric}: {_finding(rows, count(len(rows), 'effect'), unit)}",
        plot=Intervals(Axis(f"change in {unit}"), rows, margin),
    )


def _row(effect: Effect, is_loss: bool) -> IntervalRow:
    bounds = _bounds(effect)
    assert effect.estimate is not None
    assert effect.verdict is not None
    assert bounds is not None
    value, low, high = (
        number if is_loss else _percent(number) for number in (effect.estimate, *bounds)
    )
    name = " with ".join(f"{axis} {label}" for axis, label in effect.levels.items())
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
