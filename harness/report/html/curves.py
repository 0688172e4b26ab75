"""The loss curves as data for the page: the mean of each entry's seeds with their band, thinned to fit a file."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from harness.analysis.dataset import Entry
from harness.analysis.summary import Summary
from harness.report import formatting as cells
from harness.report.charts import curves
from harness.report.charts.curves import Curve
from harness.report.charts.style import Look
from harness.report.html import style
from harness.report.html.markup import to_html
from harness.results.upgrade import Json

BUDGET = 120_000  # points of all curves of one kind: some 2 MB
MOST_POINTS, FEWEST_POINTS = 300, 8  # of a curve
BANDS_UP_TO = 200  # entries; beyond, curves of training and the bands of the seeds are left out
SHOWN = 24  # curves that are drawn at once
COLUMNS = ("first", "after a quarter", "half-way", "after three quarters", "last")


def payload(summary: Summary, look: Look) -> Json:
    """Return `shown`, and for each entry how it looks and its curves: `x`, `time` (seconds), `y`, `low`, `high`.

    Entries stand in the study's order, as the rows of the table; those without results have no curves.
    """
    entries = summary.study.entries
    small = len(entries) <= BANDS_UP_TO
    n_points = max(FEWEST_POINTS, min(MOST_POINTS, BUDGET // max(1, len(entries))))
    kinds = {"validation": curves.validation} | ({"training": curves.training} if small else {})
    found = []
    for entry in entries:
        one: Json = {"label": style.plain(entry.label), **style.line(look, entry), "curves": {}}
        for name, kind in kinds.items() if entry.done else ():
            with_time = entry.label not in summary.diverging
            one["curves"][name] = _thinned(
                kind(entry, False), kind(entry, True) if with_time else None, n_points, small
            )
        found.append(one)
    return {"shown": SHOWN, "entries": found}


def _thinned(by_step: Curve, by_time: Curve | None, n_points: int, band: bool) -> Json:
    n = len(by_step.x)
    keep = np.unique(np.linspace(0, n - 1, min(n, n_points)).round().astype(int))
    found = {"x": by_step.x[keep].astype(int).tolist(), "y": style.rounded(by_step.mean[keep])}
    if by_time is not None and band:
        found["time"] = style.rounded(by_time.x[keep])
    if band and len(by_step.entry.done) > 1:
        found |= {
            "low": style.rounded(by_step.low[keep]),
            "high": style.rounded(by_step.high[keep]),
        }
    return found


def as_table(summary: Summary) -> Markup:
    """Return the validation losses at five points of the training, for those who do not see the curves."""
    entries = [entry for entry in summary.study.entries if entry.done]
    if not entries:
        return Markup("<p>No run is done yet, so there are no curves.</p>")
    rows = [[entry.label, *_five(entry)] for entry in entries]
    return to_html(
        cells.table(["entry", *COLUMNS], rows),
        "Validation loss, mean of the seeds, at five evaluations",
    )


def _five(entry: Entry) -> Sequence[str]:
    curve = curves.validation(entry, False)
    places = np.linspace(0, len(curve.x) - 1, len(COLUMNS)).round().astype(int)
    return [f"{curve.mean[i]:.4f}" if np.isfinite(curve.mean[i]) else cells.NONE for i in places]
