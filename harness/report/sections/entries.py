"""All entries: results, verdicts against the baseline, and costs."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import compress

from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.metrics import DIVERGES
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Block, EntryCell, EntryColumn, EntryTable, Table, paragraph
from harness.report.formatting import MISSING, NO_SPEED
from harness.report.sections import Charts, chart_blocks, superiority
from harness.report.sections.comparison import REPEATS, loss_difference, verdict_words
from harness.report.sections.overview import baseline_labels
from harness.report.tables import (
    Column,
    Record,
    display,
    interval_of,
    mean_column,
    number_column,
    records,
    text_column,
)

VERDICT_ORDER = ("better", "equivalent", "unresolved", "worse")  # in which verdicts sort
DEFINITIONS = (
    "± is half the width of the 95 % t interval of the mean over seeds. Throughput is tokens per "
    "step over the median time of the timed steps of the slowest rank; warm-up steps are not "
    "timed. Over seeds it is the geometric mean, with the 95 % t interval of the logarithm; a "
    "single seed has no interval, since the variation between runs is unknown. Memory is the peak "
    "of the fullest rank. Runs that are not done have no results."
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
    """Return the results of all entries, to sort and filter on the page."""
    if not summary.results:
        return
    yield _entry_table(summary)
    yield _results(summary)
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
        Column("runs", lambda record: _runs(entries[record["entry"]]), numeric=False),
        mean_column("val loss", "val_loss"),
        mean_column("bits per byte", "bits_per_byte"),
        *averaged,
        Column("tokens/s", tokens_per_s),
        Column("step, ms", step_ms),
        number_column("peak memory, MiB", "peak_memory_bytes", formatting.mib),
        Column("MFU", _mfu),
        number_column("parameters", "parameters"),
    ]
    frame = summary.tables["entries"]
    if summary.study.imported:
        cells = {column: [column.cell(record) for record in records(frame)] for column in columns}
        columns = [column for column in columns if set(cells[column]) != {MISSING}]
    return display("Results of each entry", frame, columns, folded=True)


def _speed(record: Record, shown: str) -> str:
    """Return a speed, or what replaces it if the entry diverges from the single-process run."""
    return NO_SPEED if record["equivalence"] == DIVERGES else shown


def _mfu(record: Record) -> str:
    return _speed(record, formatting.number(record["mfu"], formatting.percent))


def _is_interrupted(entry: Entry) -> bool:
    return any(run.probes.resumed_at for run in entry.done if run.probes)


def _runs(entry: Entry) -> str:
    """Return how many runs are done, and the status of the others with its reason."""
    others = Counter(
        f"{run.status} ({run.reason})" if run.reason else run.status
        for run in entry.runs
        if run.status != "done"
    )
    done = f"{len(entry.done)} of {len(entry.runs)} done"
    return "; ".join([done, *(f"{n} {status}" for status, n in sorted(others.items()))])


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


def _entry_table(summary: Summary) -> EntryTable:
    study = summary.study
    axes = study.varying()
    titles = superiority.titles(study.superiority).values()
    columns = [
        EntryColumn("entry", numeric=False),
        EntryColumn("val loss"),
        EntryColumn("difference"),
        EntryColumn("verdict"),
        EntryColumn("tokens/s"),
        EntryColumn("throughput"),
        EntryColumn("peak memory, MiB"),
        EntryColumn("MFU"),
        EntryColumn("parameters"),
        EntryColumn("equivalence", numeric=False),
        EntryColumn("runs done"),
        *(EntryColumn(title, numeric=False) for title in titles),
        *(_axis_column(study, axis) for axis in axes),
    ]
    rows = list(_rows(summary, axes))
    if study.imported:  # without the columns that the table does not state
        filled = [any(row[i].text != MISSING for row in rows) for i in range(len(columns))]
        columns = list(compress(columns, filled))
        rows = [list(compress(row, filled)) for row in rows]
    return EntryTable(columns, rows)


def _rows(summary: Summary, axes: list[str]) -> Iterator[list[EntryCell]]:
    differences = {}
    for row in records(summary.tables["comparisons"]):
        name = "val_loss_difference"
        if row["loss_unit"] == "bits per byte":
            name = "bits_per_byte_difference"
        differences[row["entry"]] = (loss_difference(row), row[name])
    baselines = baseline_labels(summary)
    loss_verdicts = verdict_words(summary, "val_loss")
    speed_verdicts = verdict_words(summary, "tokens_per_s")
    superior = [
        superiority.words(summary, metric)
        for metric in superiority.titles(summary.study.superiority)
    ]
    entries = summary.tables["entries"]
    for entry, record in zip(summary.study.entries, records(entries), strict=True):
        label = entry.label
        uncompared = "baseline" if label in baselines else MISSING
        loss = interval_of(record, "val_loss")
        difference = differences.get(label, (MISSING, None))
        speed = interval_of(record, "tokens_per_s")
        shown_speed = formatting.interval(*speed, formatting.significant_figures)
        memory = record["peak_memory_bytes"]
        size = record["parameters"]
        equivalence = record["equivalence"] or ""
        yield [
            EntryCell(label),
            _number(formatting.mean(*loss), loss[0]),
            _number(*difference),
            _verdict(loss_verdicts, label, uncompared),
            _number(_speed(record, shown_speed), speed[0]),
            _verdict(speed_verdicts, label, uncompared),
            _number(formatting.number(memory, formatting.mib), memory),
            _number(_mfu(record), record["mfu"]),
            _number(formatting.number(size, formatting.whole), size),
            EntryCell(equivalence or MISSING, None, equivalence),
            EntryCell(_runs(entry).replace(" done", "", 1), len(entry.done)),
            *(EntryCell(shown.get(label, MISSING)) for shown in superior),
            *(EntryCell(summary.study.title(axis, entry.axes[axis])) for axis in axes),
        ]


def _axis_column(study: StudyResults, axis: str) -> EntryColumn:
    levels = tuple(study.title(axis, label) for label in study.levels[axis])
    return EntryColumn(axis, numeric=False, levels=levels)


def _verdict(words: Mapping[str, str], label: str, uncompared: str) -> EntryCell:
    """Return a verdict; an entry that repeats another's loss sorts as that one."""
    word = words.get(label)
    if word is None:
        return EntryCell(uncompared, "")
    tested = words.get(word.removeprefix(REPEATS), word)
    sort_key = VERDICT_ORDER.index(tested) if tested in VERDICT_ORDER else ""
    return EntryCell(word, sort_key, word if word in (*VERDICT_ORDER, NO_SPEED) else "")


def _number(shown: str, value: float | None) -> EntryCell:
    """Return a cell that sorts by a value, with as many digits as that takes."""
    return EntryCell(shown, "" if value is None else float(f"{value:.8g}"))
