"""All candidates: results, verdicts against the baseline, and costs."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from harness.analysis.dataset import Entry
from harness.analysis.metrics import DIVERGES
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.charts.answer import candidate_title
from harness.report.document import Block, Details, Table, paragraph
from harness.report.formatting import MISSING, NO_SPEED, Show
from harness.report.sections import Charts, chart_blocks, entry_table
from harness.report.sections.entry_table import runs_done
from harness.report.tables import (
    Column,
    Record,
    display,
    interval_of,
    mean_column,
    number_column,
    records,
    table,
    text_column,
)
from harness.results.records.answer import AnswerRow, Cost

DEFINITIONS = (
    "± is half of the 95 % t interval of the mean over seeds. Throughput is tokens per step over "
    "the median time of a step of the slowest rank, without warm-up; over seeds the geometric "
    "mean; a single seed has no interval. Memory is the peak of the fullest rank."
)
IMPORTED_DEFINITIONS = (
    "± is half the width of the 95 % t interval of the mean over seeds. A throughput is the tokens "
    "per step over the median of the step times that the table states; over seeds it is the "
    "geometric mean, with the 95 % t interval of the logarithm. A single seed has no interval."
)
INTERRUPTED = (
    "† A run of this entry was interrupted and resumed. The first steps after each interruption "
    "are not timed."
)


def build(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the results of all candidates, to sort, filter and copy on the page."""
    if not summary.results:
        return
    full = _results(summary)
    folded = Details(f"All entries: {full.caption.lower()}", [replace(full, folded=False)])
    yield replace(entry_table.build(summary), static=[_candidates(summary), folded])
    yield from _pooled(summary)
    yield paragraph(IMPORTED_DEFINITIONS if summary.study.imported else DEFINITIONS)
    if any(_is_interrupted(entry) for entry in summary.study.entries):
        yield paragraph(INTERRUPTED)
    sources = _peak_sources(summary)
    if sources:
        yield paragraph(
            "MFU = FLOPs per token × tokens per second ÷ peak FLOP/s of all devices of the run; "
            f"peak: {sources}."
        )
    yield from chart_blocks(charts, "throughput_loss")


def _pooled(summary: Summary) -> Iterator[Block]:
    """Say which context the numbers of a candidate are of."""
    axes = next((row.contexts for row in summary.answer.rows if row.contexts), None)
    if axes:
        yield paragraph(
            "The difference of a candidate is pooled over its contexts; its other numbers are of "
            "the baseline's context. Each context has its own row within the candidate."
        )


def _candidates(summary: Summary) -> Table:
    """Return the candidates, best first, in as many columns as a pull request shows."""
    rows = []
    entries = summary.results
    for row in summary.answer.rows:
        loss = entries[row.entry].val_loss
        low, high = (loss.ci95 if loss else None) or (None, None)
        rows.append(
            [
                candidate_title(row),
                row.verdict or row.reason or MISSING,
                _difference(row),
                formatting.mean(loss.mean if loss else None, low, high),
                _cost(row.tokens_per_s, formatting.significant_figures),
                _cost(row.peak_memory, lambda size: f"{formatting.mib(size)} MiB"),
                _cost(row.parameters, "{:,.0f}".format),
            ]
        )
    titles = ["candidate", "verdict", "difference", "val loss"]
    costs = ["tokens/s", "peak memory", "parameters"]
    return table("Candidates, best first", titles + costs, rows, [*titles[2:], *costs])


def _difference(row: AnswerRow) -> str:
    if row.difference is None:
        return MISSING
    low, high = row.difference.ci95 or (None, None)
    shown = formatting.difference(row.difference.mean, low, high)
    return shown if row.unit == "nats per token" else f"{shown} {row.unit}"


def _cost(cost: Cost, show: Show) -> str:
    """Return the change of a cost with its verdict, or the baseline's cost."""
    if cost.value is None or cost.reason:
        return cost.reason or MISSING
    if cost.change is None:
        return show(cost.value)
    change = formatting.brief_percent(cost.change)
    return f"{change}, {cost.verdict}" if cost.verdict else change


def _results(summary: Summary) -> Table:
    entries = {entry.label: entry for entry in summary.study.entries}

    def tokens_per_s(record: Record) -> str:
        interrupted = _is_interrupted(entries[record["entry"]])
        shown = formatting.interval(
            *interval_of(record, "tokens_per_s"), formatting.significant_figures
        )
        return _speed(record, f"{shown} †" if interrupted else shown)

    def step_ms(record: Record) -> str:
        step_s = interval_of(record, "step_s")
        return _speed(record, formatting.interval(*step_s, formatting.milliseconds))

    results = [summary.results[label] for label in entries]
    averaged = []
    if any(result.ema_val_loss for result in results):
        averaged = [mean_column("EMA val loss", "ema_val_loss")]
    columns = [
        text_column("entry"),
        Column("runs", lambda record: runs_done(entries[record["entry"]]), numeric=False),
        mean_column("val loss", "val_loss"),
        mean_column("bits per byte", "bits_per_byte"),
        *averaged,
        Column("tokens/s", tokens_per_s),
        Column("step, ms", step_ms),
        number_column("peak memory, MiB", "peak_memory_bytes", formatting.mib),
        Column("MFU", _mfu("mfu")),
        Column("MFU, full attention", _mfu("mfu_full_attention")),
        number_column("parameters", "parameters"),
    ]
    frame = summary.tables["entries"]
    if summary.study.imported:
        cells = {column: [column.cell(record) for record in records(frame)] for column in columns}
        columns = [column for column in columns if set(cells[column]) != {MISSING}]
    return display("Results of each entry", frame, columns)


def _speed(record: Record, shown: str) -> str:
    """Return a speed, or what replaces it if the entry diverges from the single-process run."""
    return NO_SPEED if record["equivalence"] == DIVERGES else shown


def _mfu(name: str) -> Callable[[Record], str]:
    return lambda record: _speed(record, formatting.number(record[name], formatting.percent))


def _is_interrupted(entry: Entry) -> bool:
    return any(run.probes.resumed_at for run in entry.done if run.probes)


def _peak_sources(summary: Summary) -> str:
    """Return the peak FLOP/s that MFU refers to, by their source."""
    peaks: dict[str, list[float]] = {}
    for entry in summary.study.entries:
        for run in entry.done:
            if run.probes is None:
                continue
            peak = run.probes.peak_flops
            values = peaks.setdefault(peak.source, [])
            if peak.value:
                values.append(peak.value)
    return "; ".join(
        f"{_teraflops(values)} ({source})" if values else f"unknown ({source})"
        for source, values in peaks.items()
    )


def _teraflops(values: list[float]) -> str:
    low = f"{min(values) / 1e12:.3g}"
    high = f"{max(values) / 1e12:.3g}"
    return f"{low} TFLOP/s" if low == high else f"{low} to {high} TFLOP/s"
