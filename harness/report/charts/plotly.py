"""Draw charts with plotly, as JSON without the colours of the page, which `charts.js` sets.

A figure has `data` and `layout` as plotly takes them, and `rows`, the number of rows of bars or
intervals (else 0). This module does not import plotly, whose script is part of the page.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import escape

from harness.report.charts.spec import (
    Axis,
    Bars,
    ChartSpec,
    Interval,
    Intervals,
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
INK = "#000000"  # the page replaces it with the colour of its text
BAR_ROOM = 1.12  # the x axis over the longest bar, for the number after it
MARGIN_FILL = "rgba(128,128,128,0.2)"

JsonDict = dict[str, object]


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
        case Scatter():
            return _scatter(plot)


def plain(text: str) -> str:
    """Return a name that plotly, which interprets some HTML, shows unchanged."""
    return escape(text, quote=False)


def rounded(values: Iterable[float]) -> list[float | None]:
    """Return numbers short enough for a file; those that are not finite are gaps."""
    return [float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None for value in values]


def _lines(plot: Lines) -> JsonDict:
    """Return small multiples; a legend entry toggles a line in all panels."""
    data: list[JsonDict] = []
    shapes: list[JsonDict] = []
    annotations: list[JsonDict] = []
    layout: JsonDict = {"shapes": shapes, "annotations": annotations}
    named: set[str] = set()
    for i, panel in enumerate(plot.panels, start=1):
        n = "" if i == 1 else str(i)
        layout[f"xaxis{n}"] = _axis(panel.x)
        layout[f"yaxis{n}"] = _axis(panel.y)
        for line in panel.lines:
            place = {"xaxis": f"x{n}", "yaxis": f"y{n}", "legendgroup": line.entry}
            traces = _line(line, panel, show_legend=line.entry not in named)
            data += [trace | place for trace in traces]
            named.add(line.entry)
        shapes += [_line_across(reference, n) for reference in panel.references]
        annotations += [_label(reference, panel, n) for reference in panel.references]
        annotations += _texts(panel, n)
    if len(plot.panels) > 1:
        n_rows = -(-len(plot.panels) // plot.columns)
        layout["grid"] = {"rows": n_rows, "columns": plot.columns, "pattern": "independent"}
    return {"data": data, "layout": layout, "rows": 0}


def _line(line: Line, panel: Panel, show_legend: bool) -> list[JsonDict]:
    """Return the trace of a line, after that of its band if it has one."""
    trace: JsonDict = {
        "type": "scatter",
        "mode": "lines" if line.markers == "none" else "lines+markers",
        "name": plain(line.entry),
        "x": rounded(line.x),
        "y": rounded(line.y),
        "line": {"color": line.style.colour, "dash": line.style.dash},
        "marker": {"symbol": line.style.marker, "size": 8},
        "text": [tick_label(panel.y, float(f"{value:.5g}")) for value in line.y],
        "hovertemplate": "%{x:,.6~g}: %{text}<extra>%{fullData.name}</extra>",
        "showlegend": show_legend,
    }
    if line.markers == "few":
        trace["marker"] = {"symbol": line.style.marker, "size": 6, "maxdisplayed": 8}
    if not line.low:
        return [trace]
    if line.spread == "bars":
        return [trace | {"error_y": _error(line.y, line.low, line.high)}]
    band: JsonDict = {
        "type": "scatter",
        "mode": "lines",
        "x": rounded([*line.x, *reversed(line.x)]),
        "y": rounded([*line.high, *reversed(line.low)]),
        "fill": "toself",
        "fillcolor": line.style.colour,
        "opacity": 0.15,
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    return [band, trace]


def _line_across(reference: ReferenceLine, n: str) -> JsonDict:
    shape: JsonDict = {"type": "line", "layer": "below"}
    shape["line"] = {"color": INK, "width": 1, "dash": "dot"}
    if reference.axis == "x":
        ends = {"x0": reference.value, "x1": reference.value, "y0": 0, "y1": 1}
        return shape | ends | {"xref": f"x{n}", "yref": f"y{n} domain"}
    ends = {"x0": 0, "x1": 1, "y0": reference.value, "y1": reference.value}
    return shape | ends | {"xref": f"x{n} domain", "yref": f"y{n}"}


def _label(reference: ReferenceLine, panel: Panel, n: str) -> JsonDict:
    """Return the label of a reference line, above a horizontal and at the foot of a vertical one."""
    label: JsonDict = {"text": plain(reference.label), "showarrow": False, "font": {"size": 10}}
    label |= {"xref": f"x{n}", "yref": f"y{n}", "yanchor": "bottom"}
    if reference.axis == "y":
        y = math.log10(reference.value) if panel.y.log2 else reference.value
        return label | {"x": 0, "xref": f"x{n} domain", "y": y, "xanchor": "left"}
    x = math.log10(reference.value) if panel.x.log2 else reference.value
    is_first = reference.value <= min(panel.x.ticks, default=-math.inf)
    anchor = "left" if is_first else "right"
    return label | {"x": x, "y": 0, "yref": f"y{n} domain", "xanchor": anchor}


def _texts(panel: Panel, n: str) -> list[JsonDict]:
    """Return the panel's title above its left corner, and the note on missing entries within."""
    corner = {"xref": f"x{n} domain", "yref": f"y{n} domain", "y": 1, "showarrow": False}
    title = {"text": f"<b>{plain(panel.title)}</b>", "x": 0, "xanchor": "left"}
    note = {"text": plain(panel.missing_note).replace("\n", "<br>"), "x": 1, "xanchor": "right"}
    texts: list[JsonDict] = []
    if panel.title:
        texts.append(corner | title | {"yanchor": "bottom"})
    if panel.missing_note:
        texts.append(corner | note | {"yanchor": "top", "align": "right", "font": {"size": 10}})
    return texts


def _axis(axis: Axis) -> JsonDict:
    result: JsonDict = {"title": {"text": axis.label}}
    if axis.log2:
        result["type"] = "log"
    if axis.ticks:
        result["tickvals"] = list(axis.ticks)
        result["ticktext"] = [tick_label(axis, value) for value in axis.ticks]
    if axis.limits:
        low, high = axis.limits
        result["range"] = [math.log10(low), math.log10(high)] if axis.log2 else [low, high]
    return result


def _error(values: Sequence[float], low: Sequence[float], high: Sequence[float]) -> JsonDict:
    """Return plotly's error bars from the ends of intervals."""
    return {
        "type": "data",
        "symmetric": False,
        "array": rounded(end - value for value, end in zip(values, high, strict=True)),
        "arrayminus": rounded(value - end for value, end in zip(values, low, strict=True)),
        "thickness": 1.2,
        "width": 3,
    }


def _intervals_error(values: Sequence[float], intervals: Sequence[Interval]) -> JsonDict:
    return _error(values, [low for low, _ in intervals], [high for _, high in intervals])


def _rows(data: list[JsonDict], x: Axis, names: Sequence[str]) -> JsonDict:
    """Return a figure with a named row at each place 0, 1, ... of the y axis, the first on top."""
    layout: JsonDict = {
        "xaxis": _axis(x),
        "yaxis": {
            "tickvals": list(range(len(names))),
            "ticktext": [plain(name) for name in names],
            "zeroline": False,
            "range": [len(names) - 0.4, -0.6],
        },
        "barmode": "stack",
    }
    return {"data": data, "layout": layout, "rows": len(names)}


def _bars(plot: Bars) -> JsonDict:
    data = [_part(plot, i, part) for i, part in enumerate(plot.parts)]
    places = [place for place, row in enumerate(plot.rows) if row.predicted is not None]
    if places:
        predicted = [plot.rows[place].predicted or 0.0 for place in places]
        line = {"color": PREDICTED, "width": 2.5}
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "predicted",
                "x": rounded(predicted),
                "y": places,
                "marker": {"symbol": "line-ns", "size": 18, "color": PREDICTED, "line": line},
                "hovertemplate": f"%{{x:,.4g}} {plot.x.label}<extra>predicted</extra>",
            }
        )
    ends = [max(sum(row.values), row.interval[1] if row.interval else 0.0) for row in plot.rows]
    data.append(
        {
            "type": "scatter",
            "mode": "text",
            "x": rounded(ends),
            "y": list(range(len(plot.rows))),
            "text": [f" {plain(row.text or row.note)}" for row in plot.rows],
            "textposition": "middle right",
            "cliponaxis": False,
            "hoverinfo": "skip",
            "showlegend": False,
        }
    )
    x = replace(plot.x, limits=(0.0, BAR_ROOM * max(ends) or 1.0))
    return _rows(data, x, [row.name for row in plot.rows])


def _part(plot: Bars, i: int, part: Part) -> JsonDict:
    """Return the trace of one part of all bars."""
    places = [place for place, row in enumerate(plot.rows) if row.values]
    rows = [plot.rows[place] for place in places]
    values = [row.values[i] for row in rows]
    marker: JsonDict = {"color": part.colour or [row.colour for row in rows]}
    if part.hatched:
        pattern = {"shape": "/", "fgcolor": INK, "bgcolor": "rgba(0,0,0,0)", "size": 6}
        marker = {"color": INK, "pattern": pattern}
    trace: JsonDict = {
        "type": "bar",
        "orientation": "h",
        "name": part.name,
        "x": rounded(values),
        "y": places,
        "marker": marker,
        "text": [plain(row.name) for row in rows],
        "textposition": "none",
        "hovertemplate": f"%{{text}}<br>%{{x:,.4g}} {plot.x.label}<extra>{part.name}</extra>",
    }
    intervals = [row.interval for row in rows if row.interval]
    if intervals:
        trace["error_x"] = _intervals_error(values, intervals) | {"color": INK}
    return trace


def _intervals(plot: Intervals) -> JsonDict:
    """Return a trace per verdict, so that the legend toggles them."""
    data: list[JsonDict] = []
    for verdict in VERDICTS:
        places = [place for place, row in enumerate(plot.rows) if row.verdict == verdict]
        rows = [plot.rows[place] for place in places]
        if not rows:
            continue
        style = rows[0].style
        values = [row.value for row in rows]
        error = _intervals_error(values, [row.interval for row in rows])
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": verdict,
                "x": rounded(values),
                "y": places,
                "text": [plain(row.name) for row in rows],
                "error_x": error | {"color": style.colour},
                "marker": {"color": style.colour, "symbol": style.marker, "size": 9},
                "hovertemplate": f"%{{text}}<br>%{{x}}<extra>{verdict}</extra>",
            }
        )
    figure = _rows(data, plot.x, [f"{row.name}: {row.verdict}" for row in plot.rows])
    if plot.margin is not None:
        band: JsonDict = {
            "type": "rect",
            "yref": "paper",
            "x0": -plot.margin,
            "x1": plot.margin,
            "y0": 0,
            "y1": 1,
            "layer": "below",
            "line": {"width": 0},
            "fillcolor": MARGIN_FILL,
        }
        layout = figure["layout"]
        assert isinstance(layout, dict)
        layout["shapes"] = [band]
    return figure


def _scatter(plot: Scatter) -> JsonDict:
    """Return a trace per group, so that the legend toggles them, and the Pareto front."""
    groups: dict[str, list[Point]] = {}
    for point in plot.points:
        groups.setdefault(point.group, []).append(point)
    data = [_group(name, points) for name, points in groups.items()]
    front = sorted((point.x, point.y) for point in plot.points if point.on_front)
    data.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "Pareto front",
            "x": rounded(x for x, _ in front),
            "y": rounded(y for _, y in front),
            "line": {"color": "#808080", "dash": "dash", "width": 1, "shape": "vh"},
            "hoverinfo": "skip",
        }
    )
    layout = {"xaxis": _axis(plot.x), "yaxis": _axis(plot.y)}
    return {"data": data, "layout": layout, "rows": 0}


def _group(name: str, points: Sequence[Point]) -> JsonDict:
    """Return the trace of the points of a group; rings mark those on the front."""
    values = [point.x for point in points]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(name),
        "x": rounded(values),
        "y": rounded(point.y for point in points),
        "error_x": _intervals_error(values, [point.interval for point in points]),
        "text": [f"{plain(point.name)}<br>{plain(point.detail)}" for point in points],
        "hovertemplate": "%{text}<br>%{x:,.0f} tokens/s<br>loss %{y:.4f}<extra></extra>",
        "marker": {
            "color": points[0].style.colour,
            "symbol": [point.style.marker for point in points],
            "opacity": 0.8,
            "size": rounded(MIN_SIZE + (MAX_SIZE - MIN_SIZE) * point.size**0.5 for point in points),
            "line": {"color": INK, "width": [2 if point.on_front else 0 for point in points]},
        },
    }
