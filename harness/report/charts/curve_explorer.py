"""Data of the page's interactive loss curves: all entries, thinned to fit a file."""

from collections.abc import Sequence

import numpy as np

from harness.analysis.summary import Summary
from harness.report.charts.curves import Curve, thin, training, validation
from harness.report.charts.plotly import JsonDict, plain, rounded
from harness.report.charts.style import choose_style

MAX_TOTAL_POINTS = 120_000  # of all curves of one loss: about 2 MB
MAX_POINTS = 300  # of a curve
MIN_POINTS = 8
MAX_DETAILED = 200  # entries up to which training curves, bands and times are included
MAX_SHOWN = 24  # curves drawn at once
QUARTERS = ("first", "after 1/4", "after 1/2", "after 3/4", "last")


def payload(summary: Summary) -> JsonDict:
    """Return `shown`, the number of curves drawn at once, and `entries` in the table's order.

    An entry has its style and its curves by loss, each with `x` (steps), `y`, and in a study of few
    entries `time` (seconds), `low` and `high`. Entries without results have no curves.
    """
    entries = summary.study.entries
    style = choose_style(summary.study)
    detailed = len(entries) <= MAX_DETAILED
    n_points = max(MIN_POINTS, min(MAX_POINTS, MAX_TOTAL_POINTS // max(1, len(entries))))
    rows = []
    for entry in entries:
        mark = style.mark(entry)
        curves = {}
        if entry.done:
            timed = detailed and entry.label not in summary.diverging
            curves["validation"] = _thinned(validation(entry), n_points, detailed, timed)
        if entry.done and detailed:
            curves["training"] = _thinned(training(entry), n_points, detailed, timed)
        rows.append(
            {
                "label": plain(entry.label),
                "colour": mark.colour,
                "dash": mark.dash,
                "symbol": mark.marker,
                "curves": curves,
            }
        )
    return {"shown": MAX_SHOWN, "entries": rows}


def _thinned(curve: Curve, n_points: int, band: bool, timed: bool) -> JsonDict:
    kept = thin(len(curve.step), n_points)
    data: JsonDict = {"x": curve.step[kept].tolist(), "y": rounded(curve.mean[kept])}
    if timed:
        data["time"] = rounded(curve.time[kept])
    if band and len(curve.entry.done) > 1:
        data["low"] = rounded(curve.low[kept])
        data["high"] = rounded(curve.high[kept])
    return data


def quarter_losses(summary: Summary) -> list[tuple[str, Sequence[float]]]:
    """Return each entry with its mean validation loss at five evaluations, from first to last."""
    rows = []
    for entry in summary.study.entries:
        if entry.done:
            losses = validation(entry).mean
            places = np.linspace(0, len(losses) - 1, len(QUARTERS)).round().astype(int)
            rows.append((entry.label, losses[places].tolist()))
    return rows
