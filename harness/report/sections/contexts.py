"""The contexts of a study side by side: parallelisms, sizes, or other axes that collapse."""

from collections.abc import Iterator, Sequence

from harness.analysis.candidates import find_candidates
from harness.analysis.contexts import baseline_candidate, compared_axes
from harness.analysis.dataset import Entry
from harness.analysis.metrics import DIVERGES, PARALLELISM
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Block, Code, Heading, paragraph
from harness.report.formatting import MIB, MISSING, NO_SPEED
from harness.report.sections import Charts, chart_blocks
from harness.report.tables import Column, Record, display, interval_of, records

CONTEXTS = "Contexts"


def title(summary: Summary) -> str:
    """Return the title of the section: the only axis that collapses, else `Contexts`."""
    axes = compared_axes(summary.study) or [PARALLELISM]
    if len(axes) == 1 and axes[0].isidentifier():
        return axes[0].replace("_", " ").capitalize()
    return CONTEXTS


def build(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the baseline in each context, and the chart of all entries, if contexts differ."""
    rows = summary.compared_contexts
    if len(rows) < 2:
        return
    study = summary.study
    reference = study.title_of(next(row.levels for row in rows if row.is_reference))
    baseline = baseline_candidate(study)
    assert baseline is not None
    n_candidates = len(find_candidates(study))
    spread = ""
    if n_candidates > 1:
        spread = f" The range is that of this ratio over all {n_candidates} entries."
    yield paragraph(
        "The baseline ",
        Code(baseline.main.label),
        f" in each context. × is the ratio to {reference} on the same seeds, with its own 95 % t "
        f"interval over seeds, not corrected for the number of contexts.{spread}",
    )
    frame = summary.tables["context_comparison"]
    titles = {row.context: study.title_of(row.levels) for row in rows}
    columns = [
        Column(" · ".join(compared_axes(study)), lambda row: titles[row["context"]], numeric=False),
        Column("equivalent", _equivalent, numeric=False),
        Column("val loss", lambda row: formatting.mean(*interval_of(row, "val_loss"))),
        Column("tokens/s", _speed),
        Column("tokens/s ×", _speed_ratio),
        Column("range", lambda row: _range(row, "tokens_per_s_ratio")),
        Column("memory, MiB", lambda row: _mib(row["peak_memory_bytes"])),
        Column("memory ×", lambda row: _ratio(row["peak_memory_ratio"])),
        Column("range of memory", lambda row: _range(row, "peak_memory_ratio")),
        Column("sent per step, MiB", lambda row: _mib(row["sent_bytes"], "{:,.3g}".format)),
        Column(
            "waiting", lambda row: formatting.number(row["waiting_fraction"], formatting.percent)
        ),
    ]
    if len({row.n_entries for row in rows}) > 1:
        columns.append(Column("entries", lambda row: f"{row['n_entries']} of {n_candidates}"))
    if not study.contexts:
        columns.pop(2)  # the parallelism does not change the loss
    shown = records(frame)
    filled = [column for column in columns if any(column.cell(row) != MISSING for row in shown)]
    yield display("The baseline in each context", frame, filled, folded=False)
    yield from chart_blocks(charts, "contexts")
    if study.contexts:
        yield from _differences(charts)


def _differences(charts: Charts) -> Iterator[Block]:
    blocks = list(chart_blocks(charts, "differences"))
    if blocks:
        yield Heading("Differences in each context")
        yield from blocks


def context_entries(summary: Summary) -> Sequence[Entry]:
    """Return the entries of the baseline in all contexts; without contexts, those of candidates."""
    baseline = baseline_candidate(summary.study)
    if baseline is not None and compared_axes(summary.study):
        return baseline.entries
    return [candidate.main for candidate in find_candidates(summary.study)]


def _equivalent(row: Record) -> str:
    if row["is_reference"]:
        return "reference" if row["equivalence"] is None else row["equivalence"]
    if row["equivalence"] == DIVERGES:
        return f"{DIVERGES}: {formatting.count(len(row['diverging']), 'entry', 'entries')}"
    return row["equivalence"] or MISSING


def _speed(row: Record) -> str:
    if row["entry"] in row["diverging"]:
        return NO_SPEED
    speed = interval_of(row, "tokens_per_s")
    return formatting.interval(*speed, formatting.significant_figures)


def _speed_ratio(row: Record) -> str:
    if row["tokens_per_s_ratio"] is None:
        return MISSING
    return formatting.interval(*interval_of(row, "tokens_per_s_ratio"), formatting.ratio)


def _ratio(value: float | None) -> str:
    return formatting.number(value, formatting.ratio)


def _mib(size_bytes: float | None, show: formatting.Show = "{:,.1f}".format) -> str:
    return MISSING if size_bytes is None else show(size_bytes / MIB)


def _range(row: Record, name: str) -> str:
    low = row[f"lowest_{name}"]
    high = row[f"highest_{name}"]
    return MISSING if low is None else f"{_ratio(low)} to {_ratio(high)}"
