"""The loss curves."""

import numpy as np

from harness.analysis.dataset import Entry
from harness.analysis.summary import Summary
from harness.report import curve_explorer, formatting
from harness.report.document import Block, CurveExplorer, Section, Table, paragraph
from harness.report.sections import Charts, chart_blocks
from harness.report.tables import table

FRACTIONS = ("first", "at 25 %", "at 50 %", "at 75 %", "last")  # of the evaluations
STATIC_CHARTS = ("val_loss_steps", "val_loss_time", "train_loss_steps", "train_loss_time")


def build(summary: Summary, charts: Charts) -> Section | None:
    """Return the loss curves against steps and training time."""
    if not summary.results:
        return None
    blocks: list[Block] = [CurveExplorer(curve_explorer.curve_data(summary))]
    if summary.with_results:
        blocks.append(_table(summary))
    else:
        blocks.append(paragraph("No run is done yet, so there are no curves."))
    blocks += chart_blocks(charts, *STATIC_CHARTS, static=True)
    return Section("curves", "Loss curves", tuple(blocks))


def _table(summary: Summary) -> Table:
    entries = [entry for entry in summary.study.entries if entry.done]
    return table(
        "Validation loss at five evaluations, mean over seeds",
        ["entry", *FRACTIONS],
        [[entry.label, *_losses(entry)] for entry in entries],
        numeric=FRACTIONS,
    )


def _losses(entry: Entry) -> list[str]:
    """Return the mean validation loss at five evaluations."""
    n_evals = min(len(run.evals.val_loss) for run in entry.done)
    losses = np.mean([run.evals.val_loss[:n_evals] for run in entry.done], axis=0)
    indices = np.linspace(0, n_evals - 1, len(FRACTIONS)).round().astype(int)
    return [formatting.mean(loss) for loss in losses[indices].tolist()]
