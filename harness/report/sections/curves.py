"""The loss curves."""

from collections.abc import Iterator

import numpy as np

from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.curve_explorer import curve_data
from harness.report.document import Block, CurveExplorer, paragraph
from harness.report.sections import Charts, chart_blocks
from harness.report.tables import table

FRACTIONS = ("first", "at 25 %", "at 50 %", "at 75 %", "last")  # of the evaluations
STATIC_CHARTS = ("val_loss_steps", "val_loss_time", "train_loss_steps", "train_loss_time")


def build(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the loss curves against steps and training time."""
    if not summary.results:
        return
    yield CurveExplorer(curve_data(summary))
    rows = []
    for entry in summary.study.entries:
        if entry.done:
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
