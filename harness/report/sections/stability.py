"""Loss spikes and gradient norm outliers, by entry and by run."""

from collections.abc import Iterator

import pandas as pd

from harness.analysis.stability import RULE
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Block, paragraph
from harness.report.formatting import MISSING, count
from harness.report.sections import Charts
from harness.report.tables import Column, Record, display, number_column, text_column


def build(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the entries with spikes and each of their spikes, if a run has recorded a step."""
    recorded = [run for run in summary.study.runs if len(run.steps)]
    if not recorded:
        return
    spikes = summary.tables["spikes"]
    n_unstable = spikes["run_id"].nunique()
    if not n_unstable:
        yield paragraph(f"None of the {count(len(recorded), 'run')} spikes. {RULE}")
        return
    yield paragraph(
        f"{n_unstable} of {count(len(recorded), 'run')} spike. Training that is unstable ends "
        "where chance puts it: a lower learning rate, a longer warm-up or clipping gives a fair "
        f"comparison. {RULE}"
    )
    entries = summary.tables["entries"]
    unstable = entries[entries["unstable_seeds"].map(len) > 0]
    if len(unstable):
        columns = [
            text_column("entry"),
            Column("unstable seeds", _seeds, numeric=False),
            number_column("loss spikes", "n_loss_spikes"),
            number_column("gradient norm outliers", "n_grad_norm_outliers"),
            number_column("largest gradient norm", "max_grad_norm", formatting.significant_figures),
        ]
        yield display("Entries with spikes", unstable, columns)
    columns = [
        text_column("entry"),
        number_column("seed", "seed"),
        text_column("of", "kind"),
        number_column("step", "step"),
        number_column("last step", "last_step"),
        number_column("highest value", "value", formatting.significant_figures),
        Column("height", _height),
    ]
    yield display("Spikes", _highest_first(spikes), columns, folded=True)


def _seeds(row: Record) -> str:
    seeds = ", ".join(map(str, row["unstable_seeds"]))
    return f"{seeds} of {len(row['seeds'])}" if seeds else MISSING


def _height(row: Record) -> str:
    shown = formatting.significant_figures(row["height"])
    return f"+{shown} nats" if row["kind"] == "loss" else f"{shown}x the median"


def _highest_first(spikes: pd.DataFrame) -> pd.DataFrame:
    """Return loss spikes before gradient norms, the highest of each first."""
    return spikes.sort_values(["kind", "height"], ascending=False, kind="stable")
