"""Draw charts with plotly, as JSON without the colours of the page, which `charts.js` sets.

A figure has `data` and `layout` as plotly takes them, and `rows`, the number of rows of bars or
intervals (else 0). This module does not import plotly, whose script is part of the page.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import escape

from harness.printable import printable
from harness.report.charts.spec import (
    Axis,
    Bars,
    ChartSpec,
    Dots,
    Forest,
    Interval,
    Intervals,
    JsonDict,
    Line,
    Lines,
    Panel,
    Part,
    Point,
    ReferenceLine,
    Scatter,
    tick_label,
)
from harness.report.charts.style import PREDICTED, VERDICTS

DIGITS = 6
MIN_SIZE = 8  # pixels, of a marker
MAX_SIZE = 26
SMALL = {"size": 10}
INK = "#000000"  # the page replaces it with the colour of its text
GREY = "#808080"
BAR_ROOM = 1.2  # the x axis over the longest bar, for the number after it
MARGIN_FILL = "rgba(128,128,128,0.2)"
TRANSPARENT = "rgba(0,0,0,0)"


def render(spec: ChartSpec) -> JsonDict:
    """Return the chart's figure."""
    plot = spec.plot
    match plot:
        case Lines():
            return _lines(plot)
        case Bars():
            return _bars(plot)
        case Intervals():
            return _intervals(plot)
        case Dots():
            return _dots(plot)
        case Scatter():
            return _scatter(plot)
        case Forest():
            return _intervals(plot.as_intervals())


def plain(text: str) -> str:
    """Return a name that plotly, which interprets some HTML, shows unchanged."""
    return escape(printable(text), quote=False)


def rounded(values: Iterable[float]) -> list[float | None]:
    """Return numbers short enough for a file; those that are not finite are gaps."""
    return [float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None for value in values]


def _trace(mode: str, name: str, x: Iterable[float], y: Iterable[float]) -> JsonDict:
    """Return a scatter trace; its mode is made of lines, markers and text."""
    trace: JsonDict = {"type": "scatter", "mode": mode, "name": plain(name)}
    return trace | {"x": rounded(x), "y": rounded(y)}


def _error(
    values: Sequence[float], intervals: Iterable[Interval | None], colour: str = ""
) -> JsonDict:
    """Return plotly's error bars from the ends of intervals; none where no interval is known."""
    ends = [interval or (math.nan, math.nan) for interval in intervals]
    error: JsonDict = {"type": "data", "symmetric": False, "thickness": 1.2, "width": 3}
    error["array"] = rounded(high - value for value, (_, high) in zip(values, ends, strict=True))
    error["arrayminus"] = rounded(value - low for value, (low, _) in zip(values, ends, strict=True))
    return error | ({"color": colour} if colour else {})


def _axis(axis: Axis) -> JsonDict:
    result: JsonDict = {"title": {"text": plain(axis.label)}}
    if axis.log2:
        result["type"] = "log"
    if axis.ticks:
        result["tickvals"] = list(axis.ticks)
        result["ticktext"] = [tick_label(axis, value) for value in axis.ticks]
    if axis.limits:
        result["range"] = [_coordinate(axis, limit) for limit in axis.limits]
    return result


def _coordinate(axis: Axis, value: float) -> float:
    """Return a value as limits and annotations of an axis give it."""
    return math.log10(value) if axis.log2 else value


def _lines(plot: Lines) -> JsonDict:
    """Return small multiples; a legend entry toggles a line in all panels."""
    data: list[JsonDict] = []
    shapes: list[JsonDict] = []
    annotations: list[JsonDict] = []
    layout: JsonDict = {"shapes": shapes, "annotations": annotations}
    named: set[str] = set()
    for i, panel in enumerate(plot.panels, start=1):
        n = "" if i == 1 else str(i)  # plotly's suffix of the panel's axes
        layout[f"xaxis{n}"] = _axis(panel.x)
        layout[f"yaxis{n}"] = _axis(panel.y)
        for line in panel.lines:
            place = {"xaxis": f"x{n}", "yaxis": f"y{n}", "legendgroup": line.entry}
            show_legend = line.joined and line.entry not in named
            data += [trace | place for trace in _line(line, panel.y, show_legend)]
            named |= {line.entry} if line.joined else set()
        for reference in panel.references:
            shape, label = _reference(reference, panel, n)
            shapes.append(shape)
            annotations.append(label)
        annotations += _panel_texts(panel, n)
    if len(plot.panels) > 1:
        n_rows = -(-len(plot.panels) // plot.columns)
        layout["grid"] = {"rows": n_rows, "columns": plot.columns, "pattern": "independent"}
    return {"data": data, "layout": layout, "rows": 0}


def _line(line: Line, y: Axis, show_legend: bool) -> list[JsonDict]:
    """Return the trace of a line, after that of its band if it has one."""
    marker: JsonDict = {"symbol": line.style.marker, "size": 8}
    if line.markers == "few":
        marker |= {"size": 6, "maxdisplayed": 8}
    if line.ringed:
        widths = [2 if i in line.ringed else 0 for i in range(len(line.x))]
        marker["line"] = {"color": INK, "width": widths}
    mode = "lines" if line.markers == "none" else "lines+markers" if line.joined else "markers"
    trace = _trace(mode, line.entry, line.x, line.y) | {
        "line": {"color": line.style.colour, "dash": line.style.dash},
        "marker": marker,
        "text": [tick_label(y, float(f"{value:.5g}")) for value in line.y],
        "hovertemplate": "%{x:,.6~g}: %{text}<extra>%{fullData.name}</extra>",
        "showlegend": show_legend,
    }
    if not line.low:
        return [trace]
    if line.spread == "bars":
        return [trace | {"error_y": _error(line.y, zip(line.low, line.high, strict=True))}]
    outline = [*line.high, *reversed(line.low)]
    band = _trace("lines", line.entry, [*line.x, *reversed(line.x)], outline) | {
        "fill": "toself",
        "fillcolor": line.style.colour,
        "opacity": 0.15,
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    return [band, trace]


def _reference(reference: ReferenceLine, panel: Panel, n: str) -> tuple[JsonDict, JsonDict]:
    """Return a dotted line and its label, at the start of the line."""
    along = reference.axis
    across = "y" if along == "x" else "x"
    value = reference.value
    axis = panel.x if along == "x" else panel.y
    refs: JsonDict = {f"{along}ref": f"{along}{n}", f"{across}ref": f"{across}{n} domain"}
    line: JsonDict = {"type": "line", "layer": "below"}
    line["line"] = {"color": INK, "width": 1, "dash": "dot"}
    line |= {f"{along}0": value, f"{along}1": value, f"{across}0": 0, f"{across}1": 1}
    label: JsonDict = {"text": plain(reference.label), "showarrow": False, "font": SMALL}
    is_left = along == "y" or value <= axis.ticks[0]
    label |= {"xanchor": "left" if is_left else "right", "yanchor": "bottom"}
    label |= {along: _coordinate(axis, value), across: 0}
    return line | refs, label | refs


def _panel_texts(panel: Panel, n: str) -> list[JsonDict]:
    """Return the panel's title above its left corner, and the note on missing entries within."""
    corner = {"xref": f"x{n} domain", "yref": f"y{n} domain", "y": 1, "showarrow": False}
    title = {"text": f"<b>{plain(panel.title)}</b>", "x": 0, "xanchor": "left", "yanchor": "bottom"}
    text = plain(panel.missing_note).replace("\n", "<br>")
    note = {"text": text, "x": 1, "xanchor": "right", "yanchor": "top", "align": "right"}
    texts: list[JsonDict] = []
    if panel.title:
        texts.append(corner | title)
    if panel.missing_note:
        texts.append(corner | note | {"font": SMALL})
    return texts


def _rows(
    data: list[JsonDict], x: Axis, names: Sequence[str], shapes: Sequence[JsonDict] = ()
) -> JsonDict:
    """Return a figure with a named row at each place 0, 1, ... of the y axis, the first on top."""
    y = {"tickvals": list(range(len(names))), "ticktext": [plain(name) for name in names]}
    y |= {"zeroline": False, "range": [len(names) - 0.4, -0.6]}
    layout = {"xaxis": _axis(x), "yaxis": y, "barmode": "stack", "shapes": list(shapes)}
    return {"data": data, "layout": layout, "rows": len(names)}


def _bars(plot: Bars) -> JsonDict:
    data = [_part(plot, i, part) for i, part in enumerate(plot.parts)]
    predicted = {i: row.predicted for i, row in enumerate(plot.rows) if row.predicted is not None}
    if predicted:
        line = {"color": PREDICTED, "width": 2.5}
        marks = _trace("markers", "predicted", predicted.values(), predicted)
        marks["marker"] = {"symbol": "line-ns", "size": 18, "color": PREDICTED, "line": line}
        marks["hovertemplate"] = f"%{{x:,.4g}} {plot.x.label}<extra>predicted</extra>"
        data.append(marks)
    ends = [max(sum(row.values), row.interval[1] if row.interval else 0.0) for row in plot.rows]
    texts = _trace("text", "", ends, range(len(ends))) | {
        "text": [f" {plain(row.text or row.note)}" for row in plot.rows],
        "textposition": "middle right",
        "cliponaxis": False,
        "hoverinfo": "skip",
        "showlegend": False,
    }
    x = replace(plot.x, limits=(0.0, BAR_ROOM * max(ends) or 1.0))
    return _rows([*data, texts], x, [row.name for row in plot.rows])


def _part(plot: Bars, i: int, part: Part) -> JsonDict:
    """Return the trace of one part of all bars."""
    rows = {place: row for place, row in enumerate(plot.rows) if row.values}
    values = [row.values[i] for row in rows.values()]
    intervals = [row.interval for row in rows.values()]
    marker: JsonDict = {"color": part.colour or [row.colour for row in rows.values()]}
    if part.hatched:
        pattern = {"shape": "/", "fgcolor": INK, "bgcolor": TRANSPARENT, "size": 6}
        marker = {"color": INK, "pattern": pattern}
    trace: JsonDict = {
        "type": "bar",
        "orientation": "h",
        "name": part.name,
        "x": rounded(values),
        "y": list(rows),
        "marker": marker,
        "text": [plain(row.name) for row in rows.values()],
        "textposition": "none",
        "hovertemplate": f"%{{text}}<br>%{{x:,.4g}} {plot.x.label}<extra>{part.name}</extra>",
    }
    return trace | ({"error_x": _error(values, intervals, INK)} if any(intervals) else {})


def _intervals(plot: Intervals) -> JsonDict:
    """Return a trace per verdict, so that the legend toggles them."""
    data: list[JsonDict] = []
    for verdict in VERDICTS:
        rows = {place: row for place, row in enumerate(plot.rows) if row.verdict == verdict}
        if not rows:
            continue
        style = next(iter(rows.values())).style
        values = [row.value for row in rows.values()]
        intervals = [row.interval for row in rows.values()]
        trace = _trace("markers", verdict, values, rows)
        trace["text"] = [plain(row.name) for row in rows.values()]
        trace["error_x"] = _error(values, intervals, style.colour)
        trace["marker"] = {"color": style.colour, "symbol": style.marker, "size": 9}
        trace["hovertemplate"] = f"%{{text}}<br>%{{x}}<extra>{verdict}</extra>"
        data.append(trace)
    shapes: list[JsonDict] = []
    across = {"yref": "paper", "y0": 0, "y1": 1}
    if plot.band is not None:
        low, high = plot.band
        fill = {"type": "rect", "layer": "below", "fillcolor": MARGIN_FILL, "line": {"width": 0}}
        shapes.append(fill | across | {"x0": low, "x1": high})
    if plot.threshold is not None:
        dashed = {"color": INK, "width": 1, "dash": "dash"}
        line = {"type": "line", "x0": plot.threshold, "x1": plot.threshold, "line": dashed}
        shapes.append(line | across)
    if plot.x.limits is not None and plot.cut_ends():
        data.append(_arrows(plot, plot.x.limits))
    names = [f"{row.name}: {row.verdict}" for row in plot.rows]
    return _rows(data, plot.x, names, shapes)


def _arrows(plot: Intervals, limits: Interval) -> JsonDict:
    """Return the arrows at the ends of the intervals that reach beyond the limits."""
    ends = plot.cut_ends()
    sides = [limits[0 if side == "low" else 1] for _, side in ends]
    arrows = _trace("markers", "", sides, [i for i, _ in ends])
    arrows["marker"] = {
        "symbol": ["triangle-left" if side == "low" else "triangle-right" for _, side in ends],
        "color": [plot.rows[i].style.colour for i, _ in ends],
        "size": 8,
    }
    return arrows | {"cliponaxis": False, "hoverinfo": "skip", "showlegend": False}


def _dots(plot: Dots) -> JsonDict:
    """Return a trace per marker and panel; a legend entry toggles a marker in all panels."""
    data: list[JsonDict] = []
    layout: JsonDict = {}
    places = list(range(len(plot.rows)))
    for i, panel in enumerate(plot.panels, start=1):
        n = "" if i == 1 else str(i)
        layout[f"xaxis{n}"] = _axis(panel.x)
        y: JsonDict = {"tickvals": places, "range": [len(places) - 0.5, -0.5], "zeroline": False}
        is_first = i % plot.columns == 1 or plot.columns == 1
        y["ticktext"] = [plain(name) for name in plot.rows]
        y["showticklabels"] = is_first  # a page in one column shows all
        layout[f"yaxis{n}"] = y
        for mark, (name, style) in enumerate(plot.marks):
            dots = [dot for dot in panel.dots if dot.mark == mark]
            values = [dot.value for dot in dots]
            trace = _trace("markers", name, values, [dot.row + plot.offset(mark) for dot in dots])
            trace["marker"] = {"color": style.colour, "symbol": style.marker, "size": 8}
            trace["text"] = [plain(plot.rows[dot.row]) for dot in dots]
            trace["hovertemplate"] = f"%{{text}}<br>%{{x:,.4g}} {panel.x.label}"
            trace |= {"xaxis": f"x{n}", "yaxis": f"y{n}", "legendgroup": name}
            trace["showlegend"] = i == 1
            intervals = [dot.interval for dot in dots]
            data.append(trace | ({"error_x": _error(values, intervals)} if any(intervals) else {}))
    n_lines = -(-len(plot.panels) // plot.columns)
    columns = min(plot.columns, len(plot.panels))
    if len(plot.panels) > 1:
        layout["grid"] = {"rows": n_lines, "columns": columns, "pattern": "independent"}
    return {"data": data, "layout": layout, "rows": n_lines * (len(places) + 3)}


def _scatter(plot: Scatter) -> JsonDict:
    """Return a trace per group, so that the legend toggles them, and the Pareto front."""
    groups: dict[str, list[Point]] = {}
    for point in plot.points:
        groups.setdefault(point.group, []).append(point)
    data = [_group(name, points) for name, points in groups.items()]
    front = sorted((point.x, point.y) for point in plot.points if point.on_front)
    line = _trace("lines", "Pareto front", [x for x, _ in front], [y for _, y in front])
    line["line"] = {"color": GREY, "dash": "dash", "width": 1, "shape": "vh"}
    line["hoverinfo"] = "skip"
    layout = {"xaxis": _axis(plot.x), "yaxis": _axis(plot.y)}
    return {"data": [*data, line], "layout": layout, "rows": 0}


def _group(name: str, points: Sequence[Point]) -> JsonDict:
    """Return the trace of the points of a group; rings mark those on the front."""
    values = [point.x for point in points]
    each = [point.style.colour for point in points]
    colours = set(each)
    sizes = (MIN_SIZE + (MAX_SIZE - MIN_SIZE) * point.size**0.5 for point in points)
    return _trace("markers", name, values, [point.y for point in points]) | {
        "error_x": _error(values, [point.interval for point in points]),
        "text": [f"{plain(point.name)}<br>{plain(point.detail)}" for point in points],
        "hovertemplate": "%{text}<br>%{x:,.0f} tokens/s<br>loss %{y:.4f}<extra></extra>",
        "marker": {
            "color": colours.pop() if len(colours) == 1 else each,
            "symbol": [point.style.marker for point in points],
            "opacity": 0.8,
            "size": rounded(sizes),
            "line": {"color": INK, "width": [2 if point.on_front else 0 for point in points]},
        },
    }
