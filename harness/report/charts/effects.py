"""Differences from the baseline and effects of each level, with intervals and verdicts."""

import math
from collections.abc import Sequence

from harness.analysis.hypotheses import METRIC_NAMES, MetricTests, TestedEffect
from harness.analysis.summary import Summary
from harness.report.charts.entries import MAX_EFFECTS
from harness.report.charts.spec import Axis, ChartSpec, IntervalRow, Intervals
from harness.report.charts.style import VERDICTS
from harness.report.charts.text import count, number


def differences(summary: Summary) -> list[ChartSpec]:
    """Return the difference of each entry's validation loss from the baseline's."""
    tests = summary.metric_tests["val_loss"]
    rows = []
    for label in summary.results:
        test = tests.entries.get(label)
        interval = test.difference.ci95 if test else None
        if test and test.verdict and interval:
            rows.append(_row(label, test.difference.mean, interval, test.verdict, ""))
    if not rows:
        return []
    return [
        ChartSpec(
            name="differences",
            title="Validation loss minus the baseline's",
            subtitle="paired by seed, left is better; line: 95 % interval" + _band(tests.margin),
            caption="Validation loss minus the baseline's, paired by seed: left is better. Lines: "
            "95 % intervals; colour, marker and word: the verdict.",
            alt="Differences in validation loss from the baseline for "
            + _alt(rows, "entry", "entries", "nats per token"),
            plot=Intervals(Axis("difference, nats per token"), tuple(rows), tests.margin),
        )
    ]


def effects(summary: Summary) -> list[ChartSpec]:
    """Return one chart per metric: the effects of levels and pairs of levels.

    A study with one axis has none, because the effects would be the differences.
    """
    if len(summary.study.varying()) < 2:
        return []
    return [_effects(tests) for tests in summary.metric_tests.values() if limit_effects(tests)]


def limit_effects(tests: MetricTests) -> list[TestedEffect]:
    """Return the effects that have an interval; of too many, main effects and the smallest p."""
    known = _known(tests)
    clearest = sorted(known, key=lambda level: (len(level.effect.levels), level.effect.p))
    kept = {id(level) for level in clearest[:MAX_EFFECTS]}
    return [level for level in known if id(level) in kept]


def _known(tests: MetricTests) -> list[TestedEffect]:
    return [level for level in (*tests.main, *tests.interactions) if level.effect.ci95]


def _effects(tests: MetricTests) -> ChartSpec:
    is_loss = tests.quantity == "val_loss"
    rows = []
    for level in limit_effects(tests):
        effect = level.effect
        assert effect.estimate is not None
        assert effect.ci95 is not None
        name = " with ".join(f"{axis} {label}" for axis, label in effect.levels.items())
        group = "main effect" if len(effect.levels) == 1 else "interaction"
        value, low, high = effect.estimate, *effect.ci95
        if not is_loss:
            value, low, high = _percent(value), _percent(low), _percent(high)
        rows.append(_row(name, value, (low, high), level.verdict or "unresolved", group))
    margin = tests.margin if is_loss or tests.margin is None else _percent(tests.margin)
    metric = METRIC_NAMES[tests.quantity]
    caption = (
        f"Change in {metric} for each level and each pair of levels, averaged over the other axes. "
        "Lines: 95 % intervals; colour, marker and word: the verdict."
    )
    n_known = len(_known(tests))
    if n_known > len(rows):
        caption += f" {len(rows)} of {n_known:,} effects: main effects first, then the smallest p."
    return ChartSpec(
        name=f"effects_{tests.quantity}",
        title=f"Effects on {metric}",
        subtitle="against the baseline's level, averaged over the other axes; line: 95 % interval"
        + _band(margin),
        caption=caption,
        alt=f"Effects on {metric}: "
        + _alt(rows, "effect", "effects", "nats per token" if is_loss else "%"),
        plot=Intervals(
            Axis("change in nats per token" if is_loss else "change in %"), tuple(rows), margin
        ),
    )


def _row(
    name: str, value: float, interval: tuple[float, float], verdict: str, group: str
) -> IntervalRow:
    return IntervalRow(name, value, interval, verdict, VERDICTS[verdict], group)


def _band(margin: float | None) -> str:
    return "" if margin is None else "; grey: equivalence margin"


def _percent(log_ratio: float) -> float:
    return 100 * math.expm1(log_ratio)


def _alt(rows: Sequence[IntervalRow], noun: str, plural: str, unit: str) -> str:
    """Return how many rows have which verdict, and the largest resolved change."""
    verdicts = [row.verdict for row in rows]
    counts = [f"{verdicts.count(name)} {name}" for name in VERDICTS if name in verdicts]
    text = f"{count(len(rows), noun, plural)}: {', '.join(counts)}"
    resolved = [row for row in rows if row.verdict in ("better", "worse")]
    if not resolved:
        return text + "."
    largest = max(resolved, key=lambda row: abs(row.value))
    sign = "+" if largest.value > 0 else ""
    return f"{text}; largest change: {largest.name}, {sign}{number(largest.value)} {unit}."
