"""The loss curves of all entries as data for the page, thinned so that the file stays small."""

from typing import TypedDict

from harness.analysis.summary import Summary
from harness.report.charts.curves import Curve, thin, training, validation
from harness.report.charts.plotly import plain, rounded
from harness.report.charts.style import choose_style

MAX_TOTAL_POINTS = 120_000  # of all curves of one loss, some 2 MB
MAX_POINTS = 300  # of a curve
MIN_POINTS = 8
MAX_ENTRIES_WITH_BANDS = 200  # more entries have no training curves, times and seed ranges
MAX_SHOWN = 24  # curves that are drawn at once


class CurvePoints(TypedDict, total=False):
    """The points of a curve; `time` is in seconds, `low` and `high` are the range of the seeds."""

    x: list[int]
    y: list[float | None]
    time: list[float | None]
    low: list[float | None]
    high: list[float | None]


class EntryCurves(TypedDict):
    """How an entry looks, and its curves by loss: `validation`, `training`."""

    label: str
    colour: str
    dash: str
    symbol: str
    curves: dict[str, CurvePoints]


class CurveData(TypedDict):
    """The curves of all entries in the order of the study; at most `shown` are drawn at once."""

    shown: int
    entries: list[EntryCurves]


def curve_data(summary: Summary) -> CurveData:
    """Return the curves of all entries; an entry without results has none."""
    entries = summary.study.entries
    style = choose_style(summary.study)
    few_entries = len(entries) <= MAX_ENTRIES_WITH_BANDS
    n_points = max(MIN_POINTS, min(MAX_POINTS, MAX_TOTAL_POINTS // max(1, len(entries))))
    losses = {"validation": validation}
    if few_entries:
        losses["training"] = training
    data: list[EntryCurves] = []
    for entry in entries:
        points: dict[str, CurvePoints] = {}
        for name, loss in losses.items() if entry.done else ():
            with_time = few_entries and entry.label not in summary.diverging
            points[name] = _points(loss(entry), n_points, with_time, few_entries)
        mark = style.mark(entry)
        data.append(
            {
                "label": plain(entry.label),
                "colour": mark.colour,
                "dash": mark.dash,
                "symbol": mark.marker,
                "curves": points,
            }
        )
    return {"shown": MAX_SHOWN, "entries": data}


def _points(curve: Curve, n_points: int, with_time: bool, with_range: bool) -> CurvePoints:
    kept = thin(len(curve.step), n_points)
    points: CurvePoints = {
        "x": curve.step[kept].tolist(),
        "y": rounded(curve.losses.mean(axis=0)[kept]),
    }
    if with_time:
        points["time"] = rounded(curve.time_s[kept])
    if with_range and len(curve.entry.done) > 1:
        points["low"] = rounded(curve.losses.min(axis=0)[kept])
        points["high"] = rounded(curve.losses.max(axis=0)[kept])
    return points
