"""The charts of a comparison: differences of entries, curves of both sides, changes of costs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.loss_curves import Curve, has_curve, validation
from harness.analysis.metrics import PARALLELISM
from harness.analysis.pairs import METRIC_NAMES
from harness.report import formatting
from harness.report.charts.answer import MAX_ROWS, WITHOUT_VERDICT
from harness.report.charts.entries import MAX_ENTRIES
from harness.report.charts.limits import loss_limits
from harness.report.charts.spec import (
    Axis,
    ChartSpec,
    CostBar,
    Forest,
    ForestRow,
    IntervalRow,
    Intervals,
    Line,
    Lines,
    MarkStyle,
    Panel,
    ReferenceLine,
)
from harness.report.charts.style import COLOURS, VERDICTS
from harness.report.compare.sources import Source
from harness.report.formatting import count
from harness.results.records.comparisons import Quantity, VerdictName
from harness.results.records.study_comparison import EntryPair, StudyComparison

MAX_CURVES = len(COLOURS)
MIN_SPAN = 1e-3  # nats that the axis of the differences covers at least
COSTS: Sequence[Quantity] = ("tokens_per_s", "peak_memory")


def build(comparison: StudyComparison, a: Source, b: Source) -> list[ChartSpec]:
    """Return all charts for which both sides have results."""
    titles = _titles(comparison, b.study)
    ranked = _ranked(comparison)
    colours = dict(zip([pair.entry for pair in ranked], COLOURS, strict=False))
    charts = [
        *_forest(comparison, ranked, titles, colours),
        *_curves(comparison, ranked[:MAX_CURVES], titles, colours, a.study, b.study),
    ]
    for metric in COSTS:
        charts += _changes(comparison, metric)
    return charts


def _titles(comparison: StudyComparison, study: StudyResults) -> dict[str, str]:
    """Return the name of each tested entry of B without its parallelism."""
    entries = {entry.label: entry for entry in study.entries}
    axes = [axis for axis in study.varying() if axis != PARALLELISM]
    titles = {}
    for pair in comparison.pairs:
        levels = {axis: entries[pair.entry].axes[axis] for axis in axes}
        titles[pair.entry] = study.title_of(levels) or study.entry_title(pair.entry)
    return titles


def _ranked(comparison: StudyComparison) -> list[EntryPair]:
    """Return the pairs whose own loss is compared, the best change of B first."""

    def difference(pair: EntryPair) -> float:
        return pair.val_loss.difference.mean if pair.val_loss else math.inf

    return sorted([pair for pair in comparison.shared if not pair.repeats], key=difference)


def _forest(
    comparison: StudyComparison,
    ranked: Sequence[EntryPair],
    titles: Mapping[str, str],
    colours: Mapping[str, str],
) -> Iterator[ChartSpec]:
    """Return the difference in loss of each entry with its changes of costs."""
    compared = [pair for pair in ranked if pair.val_loss]
    if not compared:
        return
    units = {pair.val_loss.unit for pair in compared if pair.val_loss}
    unit = units.pop() if len(units) == 1 else None
    rows = []
    for pair in ranked[:MAX_ROWS]:
        row = _forest_row(pair, titles[pair.entry], unit)
        rows.append(replace(row, swatch=colours.get(pair.entry, WITHOUT_VERDICT.colour)))
    margin = comparison.margins.get("val_loss")
    n_more = len(ranked) - len(rows)
    words = [row.verdict for row in rows]
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    yield ChartSpec(
        name="answer",
        title=f"Validation loss of {comparison.b} minus that of {comparison.a}",
        subtitle="left is better; line: 95 % interval, for all rows at once"
        + ("; grey: equivalence margin" if margin and unit is None else ""),
        note=" Costs are ratios of the second study to the first, with their tested intervals.",
        alt=f"Forest plot of {count(len(rows), 'entry', 'entries')}: {counts}.",
        plot=Forest(
            x=Axis(f"difference, {unit or 'nats per token'}"),
            rows=rows,
            cost_titles=[f"{METRIC_NAMES[metric]}, ratio" for metric in COSTS],
            band=(-margin, margin) if margin and unit is None else None,
            n_more=n_more,
        ),
    )


def _forest_row(pair: EntryPair, title: str, unit: str | None) -> ForestRow:
    test = pair.val_loss
    row = ForestRow(
        name=title,
        entry=pair.entry,
        verdict="bitwise equal" if pair.bitwise else "not comparable",
        text="",
        style=WITHOUT_VERDICT,
        swatch="",
        costs=[_cost(pair, metric) for metric in COSTS],
    )
    if test is None or test.unit != unit:
        return row
    low, high = test.difference.ci95 or (None, None)
    verdict = test.verdict or "no interval"
    return replace(
        row,
        verdict="bitwise equal" if pair.bitwise else verdict,
        text="0" if pair.bitwise else formatting.brief_difference(test.difference.mean, low, high),
        style=VERDICTS[test.verdict] if test.verdict else WITHOUT_VERDICT,
        value=test.difference.mean,
        interval=test.difference.ci95,
    )


def _cost(pair: EntryPair, metric: Quantity) -> CostBar:
    """Return the ratio of a cost of B to that of A."""
    test = pair.verdict(metric)
    is_speed = metric == "tokens_per_s"
    reason = pair.speed_not_comparable if is_speed else pair.memory_not_comparable
    if test is None or reason:
        return CostBar("not comparable" if reason else formatting.MISSING)
    value = math.exp(test.difference.mean)
    interval = None
    if test.difference.ci95 is not None:
        low, high = test.difference.ci95
        interval = (math.exp(low), math.exp(high))
    return CostBar(
        text=f"{formatting.ratio(value)}x",
        value=value,
        interval=interval,
        change=formatting.brief_percent(value - 1),
        verdict=test.verdict or "",
    )


def _curves(
    comparison: StudyComparison,
    ranked: Sequence[EntryPair],
    titles: Mapping[str, str],
    colours: Mapping[str, str],
    a: StudyResults,
    b: StudyResults,
) -> Iterator[ChartSpec]:
    """Return the validation losses of both sides, and their differences, against steps."""
    entries_of_a = {entry.label: entry for entry in a.entries}
    entries_of_b = {entry.label: entry for entry in b.entries}
    losses: list[Line] = []
    differences: list[Line] = []
    missing = []
    for pair in ranked:
        sides = (entries_of_a[pair.entry_of_a], entries_of_b[pair.entry])
        if pair.seeds:
            sides = (sides[0].on_seeds(pair.seeds), sides[1].on_seeds(pair.seeds))
        title = titles[pair.entry]
        in_bits = pair.val_loss is not None and pair.val_loss.unit is not None
        if pair.not_comparable or in_bits or not all(_is_drawn(entry) for entry in sides):
            missing.append(title)
            continue
        style = MarkStyle(colours[pair.entry])
        of_a = validation(sides[0])
        of_b = validation(sides[1])
        losses.append(_line(of_b, pair.entry, title, style))
        losses.append(_line(of_a, pair.entry, f"{title}, dashed", replace(style, dash="dash")))
        if pair.seeds and np.array_equal(of_a.step, of_b.step):
            differences.append(_difference(of_a, of_b, pair.entry, title, style))
    if not losses:
        return
    x = Axis("steps", (0, max(line.x[-1] for line in losses) or 1))
    panels = [
        Panel(
            "Validation loss", x, Axis("nats per token", loss_limits(losses, None)), losses,
            missing=missing, missing_reason="not comparable",
        )
    ]  # fmt: skip
    if differences:
        zero = ReferenceLine("y", 0.0, "")
        label = Axis("difference, nats per token", _limits(differences))
        panels.append(Panel("Difference", x, label, differences, [zero]))
    yield ChartSpec(
        name="curves",
        title=f"Loss curves of {comparison.b} and of {comparison.a}",
        subtitle=f"solid: {comparison.b}; dashed: {comparison.a}; mean over seeds; band: lowest to "
        "highest seed",
        note=" Right: the former minus the latter, paired by seed." if differences else "",
        alt=f"Validation loss against steps for {count(len(losses) // 2, 'entry', 'entries')}, of "
        "both studies.",
        plot=Lines(panels, columns=len(panels)),
    )


def _is_drawn(entry: Entry) -> bool:
    return bool(entry.done) and has_curve(entry, validation)


def _line(curve: Curve, entry: str, name: str, style: MarkStyle) -> Line:
    several = len(curve.losses) > 1
    return Line(
        name=name,
        entry=entry,
        style=style,
        x=curve.step.astype(float).tolist(),
        y=curve.losses.mean(axis=0).tolist(),
        low=curve.losses.min(axis=0).tolist() if several else (),
        high=curve.losses.max(axis=0).tolist() if several else (),
    )


def _difference(of_a: Curve, of_b: Curve, entry: str, name: str, style: MarkStyle) -> Line:
    """Return B minus A by seed; the runs of both curves are in the order of the seeds."""
    return _line(replace(of_b, losses=of_b.losses - of_a.losses), entry, name, style)


def _limits(lines: Sequence[Line]) -> tuple[float, float]:
    """Return y limits that cover the lines from a third of their length on, and zero."""
    values = [0.0, MIN_SPAN / 2, -MIN_SPAN / 2]
    for line in lines:
        late = np.array(line.x) >= line.x[-1] / 3
        values += [float(np.array(line.bottom)[late].min()), float(np.array(line.top)[late].max())]
    margin = 0.06 * (max(values) - min(values))
    return min(values) - margin, max(values) + margin


def _changes(comparison: StudyComparison, metric: Quantity) -> Iterator[ChartSpec]:
    """Return the relative change of a cost of each entry, if any differs."""
    rows = []
    for pair in comparison.pairs:
        test = pair.verdict(metric)
        if test is not None and test.verdict and test.difference.ci95:
            value = _percent(test.difference.mean)
            low, high = map(_percent, test.difference.ci95)
            style = VERDICTS[test.verdict]
            rows.append(IntervalRow(pair.entry, value, (low, high), test.verdict, style))
    if not any(row.value for row in rows):
        return
    rows.sort(key=lambda row: -abs(row.value))
    words: list[VerdictName | str] = [row.verdict for row in rows]
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    name = METRIC_NAMES[metric]
    margin = comparison.margins.get(metric)
    side = "right" if metric == "tokens_per_s" else "left"
    shown = "" if len(rows) <= MAX_ENTRIES else f" The {MAX_ENTRIES} largest of {len(rows):,}."
    yield ChartSpec(
        name=metric,
        title=f"{name.capitalize()} of {comparison.b} relative to {comparison.a}",
        subtitle=f"{side} is better; line: 95 % interval, for all rows at once"
        + ("; grey: equivalence margin" if margin else ""),
        note=shown,
        alt=f"Change of {name} for {count(len(rows), 'entry', 'entries')}: {counts}.",
        plot=Intervals(
            Axis("change, %"),
            rows[:MAX_ENTRIES],
            (_percent(-math.log1p(margin)), 100 * margin) if margin else None,
        ),
    )


def _percent(log_ratio: float) -> float:
    return 100 * math.expm1(log_ratio)
