"""The loss curves of all entries, thinned so that the page stays small."""

from collections.abc import Iterator

import numpy as np

from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.charts.curves import (
    Curve,
    counts_tokens,
    has_curve,
    has_times,
    thin,
    training,
    validation,
)
from harness.report.charts.plotly import plain, rounded
from harness.report.charts.spec import JsonDict
from harness.report.charts.style import choose_style
from harness.report.document import Block, CurveExplorer, paragraph
from harness.report.sections import Charts, chart_blocks
from harness.report.tables import table

FRACTIONS = ("first", "at 25 %", "at 50 %", "at 75 %", "last")  # of the evaluations
STATIC_CHARTS = ("val_loss_steps", "val_loss_time", "train_loss_steps", "train_loss_time")
MAX_TOTAL_POINTS = 120_000  # of all curves of one loss, some 2 MB
MAX_POINTS = 300  # of a curve
MIN_POINTS = 8
MAX_ENTRIES_WITH_BANDS = 200  # more entries have no training curves, times and seed ranges
MAX_SHOWN = 24  # curves that are drawn at once


def build(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the loss curves against steps and training time."""
    if not summary.results:
        return
    entries = summary.study.entries
    drawn = [entry for entry in entries if entry.done and has_curve(entry, validation)]
    if summary.study.imported and not drawn:
        return  # the table states the final losses only
    yield CurveExplorer(_explorer_data(summary))
    rows = []
    for entry in drawn:
        n_evals = min(len(run.evals.val_loss) for run in entry.done)
        losses = np.mean([run.evals.val_loss[:n_evals] for run in entry.done], axis=0)
        indices = np.linspace(0, n_evals - 1, len(FRACTIONS)).round().astype(int)
        rows.append([entry.label, *map(formatting.mean, losses[indices].tolist())])
    if rows:
        caption = "Validation loss at five evaluations, mean over seeds"
        yield table(caption, ["entry", *FRACTIONS], rows, FRACTIONS)
    else:
        yield paragraph("No run is done yet, so there are no curves.")
    yield from chart_blocks(charts, *STATIC_CHARTS, static=True)


def _explorer_data(summary: Summary) -> JsonDict:
    """Return the curves of all entries in the order of the study.

    `unit` is that of their x: `steps` or `tokens`. Each of `entries` has its label, its colour,
    dash and symbol, and its `curves` by loss; an entry without results has none. At most `shown`
    are drawn at once.
    """
    entries = summary.study.entries
    style = choose_style(summary.study)
    by_tokens = counts_tokens(summary.study)
    few_entries = len(entries) <= MAX_ENTRIES_WITH_BANDS
    n_points = max(MIN_POINTS, min(MAX_POINTS, MAX_TOTAL_POINTS // max(1, len(entries))))
    losses = {"validation": validation}
    if few_entries:
        losses["training"] = training
    data = []
    for entry in entries:
        with_time = few_entries and entry.label not in summary.diverging
        curves = {}
        with_time = with_time and has_times(entry)
        for name, loss in losses.items():
            if entry.done and has_curve(entry, loss):
                curves[name] = _points(loss(entry), n_points, by_tokens, with_time, few_entries)
        mark = style.mark(entry)
        look = {"colour": mark.colour, "dash": mark.dash, "symbol": mark.marker}
        data.append({"label": plain(entry.label), **look, "curves": curves})
    return {"shown": MAX_SHOWN, "unit": "tokens" if by_tokens else "steps", "entries": data}


def _points(
    curve: Curve, n_points: int, by_tokens: bool, with_time: bool, with_range: bool
) -> JsonDict:
    """Return the points of a curve: `x` and `y`, `time` in seconds, `low` and `high` of seeds."""
    kept = thin(len(curve.step), n_points)
    losses = curve.losses[:, kept]
    x = curve.tokens.astype(np.int64) if by_tokens else curve.step
    points: JsonDict = {"x": x[kept].tolist(), "y": rounded(losses.mean(axis=0))}
    if with_time:
        points["time"] = rounded(curve.time_s[kept])
    if with_range and len(losses) > 1:
        points["low"] = rounded(losses.min(axis=0))
        points["high"] = rounded(losses.max(axis=0))
    return points
