"""Scaling laws, effective speedups by size, and projections."""

import math
from collections.abc import Iterator, Mapping, Sequence

from harness.analysis.summary import Summary
from harness.report.charts.curves import LOSS_LABEL
from harness.report.charts.entries import MAX_ENTRIES
from harness.report.charts.spec import (
    DASHES,
    MARKERS,
    Axis,
    ChartSpec,
    Interval,
    Line,
    Lines,
    MarkStyle,
    Panel,
    ReferenceLine,
    log_ticks,
)
from harness.report.charts.style import BASELINE, COLOURS
from harness.report.formatting import compute, count, significant_figures
from harness.results.records.ladder import (
    Ladder,
    LadderPoint,
    LadderProjection,
    LadderSpeedup,
    Scale,
)

SCALES: Mapping[Scale, str] = {
    "flops": "training FLOPs",
    "parameters": "parameters",
    "tokens": "training tokens",
}
X_MARGIN = 1.15  # factor between the outermost points and the limits
Y_MARGIN = 0.05  # of the height in logarithms
MIN_SPEEDUP_SPAN = 1.15  # factor from 1 that a speedup axis covers at least
MAX_SPEEDUP_SPAN = 30.0  # factor from 1 beyond which intervals are cut


def build(summary: Summary) -> Iterator[ChartSpec]:
    """Return loss against scale, speedup by size, and the projection of a study with a ladder."""
    ladder = summary.ladder
    if ladder is None:
        return
    entries = list(dict.fromkeys(fit.entry for fit in ladder.fits))
    shown = entries[:MAX_ENTRIES]
    titles = {entry: summary.group_titles.get(entry, entry) for entry in entries}
    styles = {entry: _style(i) for i, entry in enumerate(shown)}
    note = ""
    if len(shown) < len(entries):
        note = f" The first {len(shown)} of {len(entries):,} entries."
    yield _loss(ladder, titles, styles, note)
    speedups = [row for row in ladder.speedups if row.entry in styles]
    if speedups:
        yield _speedup(ladder, titles, speedups, styles, note)
    if ladder.projections:
        yield _projection(ladder, titles, styles, note)


def _style(i: int) -> MarkStyle:
    if i == 0:
        return MarkStyle(BASELINE)
    i -= 1
    return MarkStyle(
        COLOURS[i % len(COLOURS)],
        DASHES[i // len(COLOURS) % len(DASHES)],
        MARKERS[i % len(MARKERS)],
    )


def _loss(
    ladder: Ladder, titles: Mapping[str, str], styles: Mapping[str, MarkStyle], note: str
) -> ChartSpec:
    """Return a panel for each scale over which laws are fitted."""
    panels = []
    for scale, label in SCALES.items():
        points = {
            entry: [p for p in ladder.points if p.entry == entry]
            for entry in styles
            if any((fit.entry, fit.over) == (entry, scale) for fit in ladder.fits)
        }
        amounts = [_amount(point, scale) for group in points.values() for point in group]
        if not amounts:
            continue
        limits = (min(amounts) / X_MARGIN, max(amounts) * X_MARGIN)
        lines: list[Line] = []
        for entry, group in points.items():
            lines.append(_law(ladder, entry, scale, styles[entry], limits[1]))
            lines.append(_measured(entry, group, scale, styles[entry]))
        x = Axis(label, limits, log2=True, ticks=log_ticks(*limits))
        panels.append(Panel("", x, _loss_axis(lines), lines))
    title = "Validation loss against scale"
    steepest = max((f for f in ladder.fits if f.over == "flops"), key=lambda fit: fit.exponent)
    return ChartSpec(
        name="ladder_loss",
        title=title,
        subtitle="means over seeds with 95 % t intervals, and fitted laws E + A / x^α with 95 % "
        "bands",
        note=f" All axes are logarithmic.{note}",
        alt=f"{title} for {count(len(styles), 'entry', 'entries')} at "
        f"{count(len(ladder.sizes), 'size')}; steepest in FLOPs: {titles[steepest.entry]}, "
        f"exponent {steepest.exponent:.3f}.",
        plot=Lines(panels, len(panels), shared_axes=False),
    )


def _amount(point: LadderPoint, scale: Scale) -> float:
    return {"flops": point.flops, "parameters": point.parameters, "tokens": point.tokens}[scale]


def _law(ladder: Ladder, entry: str, scale: Scale, style: MarkStyle, end: float) -> Line:
    """Return the fitted law up to an end, with its band."""
    points = [p for p in ladder.curves if (p.entry, p.over) == (entry, scale) and p.x <= end]
    bounds = [p.val_loss_ci95 for p in points if p.val_loss_ci95 is not None]
    return Line(
        name=entry,
        entry=entry,
        style=style,
        x=[p.x for p in points],
        y=[p.val_loss for p in points],
        low=[low for low, _ in bounds],
        high=[high for _, high in bounds],
    )


def _measured(entry: str, points: Sequence[LadderPoint], scale: Scale, style: MarkStyle) -> Line:
    """Return the measured losses as markers with intervals over seeds."""
    values = []
    for point in points:
        mean = point.val_loss.mean
        values.append((_amount(point, scale), mean, *(point.val_loss.ci95 or (mean, mean))))
    line = Line.with_bars(entry, entry, style, values)
    return Line(**vars(line) | {"joined": False})


def _loss_axis(lines: Sequence[Line]) -> Axis:
    """Return a logarithmic axis that covers all points and laws, and bands up to half a decade."""
    low = min(min(line.y) for line in lines)
    high = max(max(line.y) for line in lines)
    bottom = max(min(min(line.bottom) for line in lines), low**2 / high)
    top = min(max(max(line.top) for line in lines), high**2 / low)
    margin = (top / bottom) ** Y_MARGIN
    limits = (bottom / margin, top * margin)
    return Axis(LOSS_LABEL, limits, log2=True, ticks=log_ticks(*limits))


def _speedup(
    ladder: Ladder,
    titles: Mapping[str, str],
    speedups: Sequence[LadderSpeedup],
    styles: Mapping[str, MarkStyle],
    note: str,
) -> ChartSpec:
    """Return the multiplier of each size in compute, and in time where speeds are known."""
    flops = [row.flops for row in speedups]
    limits = (min(flops) / X_MARGIN, max(flops) * X_MARGIN)
    x = Axis("training FLOPs of the entry", limits, log2=True, ticks=log_ticks(*limits))
    values = [row for row in speedups if row.compute_multiplier is not None]
    y = _speedup_axis(values)
    panels = []
    for title, name in (("compute", "compute_multiplier"), ("training time", "time_multiplier")):
        lines = []
        missing = []
        for entry, style in styles.items():
            rows = [row for row in speedups if row.entry == entry]
            points = [p for row in rows if (p := _multiplier_point(row, name, y)) is not None]
            if points:
                lines.append(Line.with_bars(entry, entry, style, points))
            elif rows:
                missing.append(entry)
        if lines:
            panels.append(
                Panel(
                    title=title,
                    x=x,
                    y=y,
                    lines=lines,
                    references=[ReferenceLine("y", 1.0, "baseline")],
                    missing=missing,
                    missing_reason="not reached by the baseline"
                    if name == "compute_multiplier"
                    else "no speed, or not reached",
                )
            )
    trends = [t for t in ladder.trends if t.compute_multiplier is not None and t.entry in styles]
    finding = ""
    if trends:
        best = max(trends, key=lambda trend: trend.compute_multiplier or 0.0)
        finding = (
            f"; highest over all sizes: {titles[best.entry]}, "
            f"{significant_figures(best.compute_multiplier or 0.0)} times, {best.verdict}"
        )
    title = "Effective speedup by size"
    if len({row.entry for row in speedups}) == 1:
        first = speedups[0]
        names = f"{titles[first.entry]} over {titles.get(first.against, first.against)}"
        title = f"Effective speedup of {names} by size"
    return ChartSpec(
        name="ladder_speedup",
        title=title,
        subtitle="compute or time that the baseline needs for the same loss, over the entry's; "
        "bars: 95 % intervals",
        note=note,
        alt=f"{title}{finding}.",
        plot=Lines(panels, len(panels), shared_axes=True),
    )


def _speedup_axis(rows: Sequence[LadderSpeedup]) -> Axis:
    lows = [1 / MIN_SPEEDUP_SPAN]
    highs = [MIN_SPEEDUP_SPAN]
    for row in rows:
        for value in (
            row.compute_multiplier,
            row.time_multiplier,
            *(row.compute_multiplier_ci95 or ()),
            *(row.time_multiplier_ci95 or ()),
        ):
            if value is not None and not math.isnan(value):
                lows.append(max(value, 1 / MAX_SPEEDUP_SPAN))
                highs.append(min(value, MAX_SPEEDUP_SPAN))
    margin = (max(highs) / min(lows)) ** Y_MARGIN
    limits = (min(lows) / margin, max(highs) * margin)
    return Axis("effective speedup", limits, log2=True, ticks=log_ticks(*limits))


def _multiplier_point(row: LadderSpeedup, name: str, y: Axis) -> tuple[float, ...] | None:
    """Return FLOPs, multiplier and its interval, an end that is not reached at the axis's limit."""
    value: float | None = getattr(row, name)
    bounds: Interval | None = getattr(row, f"{name}_ci95")
    if value is None or y.limits is None:
        return None
    low, high = bounds or (value, value)
    return row.flops, value, low, y.limits[1] if math.isnan(high) else high


def _projection(
    ladder: Ladder, titles: Mapping[str, str], styles: Mapping[str, MarkStyle], note: str
) -> ChartSpec:
    """Return the laws up to the budget, with the prediction interval of a run there."""
    projections = [row for row in ladder.projections if row.entry in styles]
    budget = projections[0].flops
    largest = budget / min(row.times_largest for row in projections)
    points = {entry: [p for p in ladder.points if p.entry == entry] for entry in styles}
    smallest = min(point.flops for group in points.values() for point in group)
    limits = (smallest / X_MARGIN, max(budget, largest) * X_MARGIN)
    lines: list[Line] = []
    for row in projections:
        style = styles[row.entry]
        lines.append(_law(ladder, row.entry, "flops", style, limits[1]))
        lines.append(_measured(row.entry, points[row.entry], "flops", style))
        lines.append(_projected(row, style))
    x = Axis("training FLOPs", limits, log2=True, ticks=log_ticks(*limits))
    best = min(projections, key=lambda row: row.val_loss)
    title = "Projection of the scaling laws"
    return ChartSpec(
        name="ladder_projection",
        title=title,
        subtitle="laws with 95 % bands; at the right: prediction intervals of a run",
        note=f" The budget, {compute(budget)} FLOPs, is "
        f"{significant_figures(best.times_largest)} times the largest size; right of the dotted "
        f"line, no run is measured.{note}",
        alt=f"{title} to {compute(budget)} FLOPs; lowest: {titles[best.entry]}, "
        f"{significant_figures(best.val_loss)} nats per token.",
        plot=Lines(
            [Panel("", x, _loss_axis(lines), lines, [ReferenceLine("x", largest, "largest size")])]
        ),
    )


def _projected(row: LadderProjection, style: MarkStyle) -> Line:
    low, high = row.val_loss_ci95 or (row.val_loss, row.val_loss)
    line = Line.with_bars(row.entry, row.entry, style, [(row.flops, row.val_loss, low, high)])
    return Line(**vars(line) | {"joined": False})
