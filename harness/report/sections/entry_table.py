"""The table of candidates on the page: best first, with all that a reader may choose to see."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

from harness.analysis import settings
from harness.analysis.answer import BASELINE
from harness.analysis.candidates import collapsed_axes
from harness.analysis.caveats import kinds_by_entry
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.metrics import DIVERGES
from harness.analysis.summary import Summary
from harness.report import details, formatting
from harness.report.charts.answer import candidate_title
from harness.report.document import EntryCell, EntryColumn, EntryRow, EntryTable, Value
from harness.report.formatting import MISSING, NO_SPEED, Show
from harness.report.sections import superiority
from harness.report.sections.comparison import REPEATS, verdict_words
from harness.report.sections.overview import baseline_labels
from harness.report.tables import Record, interval_of, records
from harness.results.records.answer import AnswerRow
from harness.results.records.comparisons import Quantity
from harness.results.records.study_summary import Scalar

VERDICT_ORDER = ("better", "equivalent", "unresolved", "worse")  # in which verdicts sort
MARKED = (*VERDICT_ORDER, NO_SPEED)
NO_COMPARISON: Record = {}


@dataclass(frozen=True)
class _Row:
    """The sources of a row; that of a context has no `answer`."""

    entry: Entry
    record: Record
    comparison: Record
    answer: AnswerRow | None


Cell = Callable[[_Row], EntryCell]


def build(summary: Summary) -> EntryTable:
    """Return the table, without its static form; columns without a value are left out."""
    study = summary.study
    collapsed = collapsed_axes(study)
    columns = list(_columns(summary, collapsed))
    positions = {entry.label: i for i, entry in enumerate(study.entries)}
    results = _by_entry(records(summary.tables["entries"]))
    comparisons = _by_entry(records(summary.tables["comparisons"]))
    links = details.links(summary)

    def row_of(label: str, answer: AnswerRow | None, contexts: Sequence[EntryRow]) -> EntryRow:
        index = positions[label]
        row = _Row(
            study.entries[index], results[label], comparisons.get(label, NO_COMPARISON), answer
        )
        link = links.get(label, "")
        if answer is not None:
            link = link.partition("#")[0]  # the page of all its runs
        return EntryRow(index, [cell(row) for _, cell in columns], contexts, link)

    rows = []
    for answer in summary.answer.rows:
        labels = answer.entries if len(answer.entries) > 1 else []
        contexts = [row_of(label, None, ()) for label in labels]
        rows.append(row_of(answer.entry, answer, contexts))
    table = EntryTable([column for column, _ in columns], rows, ", ".join(collapsed))
    return _without_empty(table)


def _by_entry(rows: Sequence[Record]) -> dict[str, Record]:
    return {row["entry"]: row for row in rows}


def _without_empty(table: EntryTable) -> EntryTable:
    """Return the table without the columns in which no row has a value."""
    rows = [part for row in table.rows for part in (row, *row.contexts)]
    is_filled = [
        any(row.cells[i].text != MISSING for row in rows) for i in range(len(table.columns))
    ]

    def filled(row: EntryRow) -> EntryRow:
        contexts = [filled(context) for context in row.contexts]
        return EntryRow(row.index, list(compress(row.cells, is_filled)), contexts, row.link)

    columns = list(compress(table.columns, is_filled))
    return EntryTable(columns, [filled(row) for row in table.rows], table.contexts)


# -- columns --------------------------------------------------------------------------------------


def _columns(summary: Summary, collapsed: Sequence[str]) -> Iterator[tuple[EntryColumn, Cell]]:
    """Yield each column with the function that returns its cell of a row."""
    study = summary.study
    yield (
        EntryColumn("candidate", "candidate", numeric=False, shown=True),
        _name(summary, collapsed),
    )
    yield (
        EntryColumn("verdict", "verdict", numeric=False, shown=True),
        _loss_verdict(summary, collapsed),
    )
    yield EntryColumn("val_loss_difference", "difference", shown=True), _difference
    if len({row.unit for row in summary.answer.rows if row.difference}) > 1:
        yield EntryColumn("unit", "unit of difference", numeric=False, shown=True), _unit
    yield EntryColumn("val_loss", "val loss", shown=True), _mean("val_loss")
    yield EntryColumn("bits_per_byte", "bits per byte"), _mean("bits_per_byte")
    yield EntryColumn("ema_val_loss", "EMA val loss"), _mean("ema_val_loss")
    yield _verdict_column(summary, "tokens_per_s", "throughput")
    yield EntryColumn("tokens_per_s_ratio", "tokens/s ×"), _speed_ratio
    yield (
        EntryColumn("tokens_per_s", "tokens/s", shown=True),
        _speed("tokens_per_s", formatting.significant_figures),
    )
    yield EntryColumn("step_s", "step, ms"), _speed("step_s", formatting.milliseconds)
    yield _verdict_column(summary, "peak_memory", "memory")
    yield EntryColumn("peak_memory_ratio", "peak memory ×"), _memory_ratio
    yield (
        EntryColumn("peak_memory_bytes", "peak memory, MiB", shown=True),
        _number("peak_memory_bytes", formatting.mib),
    )
    yield (
        EntryColumn("parameters", "parameters", shown=True),
        _number("parameters", formatting.whole),
    )
    yield EntryColumn("mfu", "MFU"), _mfu("mfu")
    yield EntryColumn("mfu_full_attention", "MFU, full attention"), _mfu("mfu_full_attention")
    yield EntryColumn("equivalence", "equivalence", numeric=False), _equivalence
    for metric, title in superiority.titles(study.superiority).items():
        words = superiority.words(summary, metric)
        yield EntryColumn(f"{metric}_superior", title, numeric=False), _word(words)
    is_incomplete = any(run.status != "done" for run in study.runs)
    yield EntryColumn("runs_done", "runs done", numeric=False, shown=is_incomplete), _runs
    yield EntryColumn("caveats", "caveats", numeric=False), _caveats(summary)
    for axis in study.varying():
        levels = tuple(study.title(axis, label) for label in study.levels[axis])
        yield EntryColumn(axis, axis, numeric=False, levels=levels), _level(study, axis)
    if summary.varied:
        values = {entry.label: settings.resolved(entry) for entry in study.entries}
        for key in summary.varied:
            yield EntryColumn(key, key, numeric=False), _setting(values, key)


def _name(summary: Summary, collapsed: Sequence[str]) -> Cell:
    """Return the names of candidates, and of contexts by their labels on the collapsed axes."""

    def cell(row: _Row) -> EntryCell:
        if row.answer is not None:
            return EntryCell(candidate_title(row.answer))
        context = _context_title(summary.study, row.entry, collapsed)
        return EntryCell(context + summary.stamps.get(row.entry.label, ""))

    return cell


def _context_title(study: StudyResults, entry: Entry, collapsed: Sequence[str]) -> str:
    """Return the titles of the entry's levels on the collapsed axes."""
    return study.title_of({axis: entry.axes[axis] for axis in collapsed})


def _loss_verdict(summary: Summary, collapsed: Sequence[str]) -> Cell:
    """Return the verdict of the answer; a context has its own, or names that of the same loss."""
    words = verdict_words(summary, "val_loss")
    baselines = baseline_labels(summary)
    entries = {entry.label: entry for entry in summary.study.entries}

    def cell(row: _Row) -> EntryCell:
        if row.answer is not None:
            return _verdict(row.answer.verdict or row.answer.reason or MISSING)
        label = row.entry.label
        word = words.get(label, BASELINE if label in baselines else MISSING)
        tested = word.removeprefix(REPEATS)
        if tested != word and tested in entries:
            context = _context_title(summary.study, entries[tested], collapsed)
            return EntryCell(f"{REPEATS}{context}", rank=_rank(words.get(tested, "")))
        return _verdict(word)

    return cell


def _verdict(word: str) -> EntryCell:
    return EntryCell(word, mark=word if word in MARKED else "", rank=_rank(word))


def _rank(word: str) -> int | None:
    return VERDICT_ORDER.index(word) if word in VERDICT_ORDER else None


def _difference(row: _Row) -> EntryCell:
    """Return the difference in the loss: of the answer, or of a context's own comparison."""
    if row.answer is not None:
        found = row.answer.difference
        if found is None:
            return EntryCell(MISSING)
        low, high = found.ci95 or (None, None)
        return _interval(formatting.difference(found.mean, low, high), found.mean, low, high)
    if not row.comparison:
        return EntryCell(MISSING)
    in_bits = row.comparison["loss_unit"] == "bits per byte"
    name = "bits_per_byte_difference" if in_bits else "val_loss_difference"
    interval = interval_of(row.comparison, name)
    return _interval(formatting.difference(*interval), *interval)


def _unit(row: _Row) -> EntryCell:
    if row.answer is not None:
        return EntryCell(row.answer.unit if row.answer.difference else MISSING)
    return EntryCell(row.comparison.get("loss_unit") or MISSING)


def _interval(shown: str, value: float | None, low: float | None, high: float | None) -> EntryCell:
    """Return a cell of a number and, if it is known, its interval."""
    if value is None or low is None or high is None:
        return EntryCell(shown, value)
    return EntryCell(shown, (value, low, high))


def _mean(name: str) -> Cell:
    def cell(row: _Row) -> EntryCell:
        interval = interval_of(row.record, name)
        return _interval(formatting.mean(*interval), *interval)

    return cell


def _speed(name: str, show: Show) -> Cell:
    def cell(row: _Row) -> EntryCell:
        if row.record["equivalence"] == DIVERGES:
            return EntryCell(NO_SPEED)
        interval = interval_of(row.record, name)
        return _interval(formatting.interval(*interval, show), *interval)

    return cell


def _speed_ratio(row: _Row) -> EntryCell:
    if not row.comparison:
        return EntryCell(MISSING)
    if row.comparison["speed_diverges"]:
        return EntryCell(NO_SPEED)
    if row.comparison["speed_not_comparable"]:
        return EntryCell("not comparable")
    interval = interval_of(row.comparison, "tokens_per_s_ratio")
    return _interval(formatting.tested_ratio(*interval), *interval)


def _memory_ratio(row: _Row) -> EntryCell:
    value = row.comparison.get("peak_memory_ratio")
    return EntryCell(formatting.number(value, formatting.ratio), value)


def _number(name: str, show: Show) -> Cell:
    def cell(row: _Row) -> EntryCell:
        value: Value = row.record[name]
        return EntryCell(formatting.number(row.record[name], show), value)

    return cell


def _mfu(name: str) -> Cell:
    def cell(row: _Row) -> EntryCell:
        if row.record["equivalence"] == DIVERGES:
            return EntryCell(NO_SPEED)
        value: Value = row.record[name]
        return EntryCell(formatting.number(row.record[name], formatting.percent), value)

    return cell


def _equivalence(row: _Row) -> EntryCell:
    word = row.record["equivalence"] or ""
    return EntryCell(word or MISSING, mark=word)


def _verdict_column(summary: Summary, metric: Quantity, title: str) -> tuple[EntryColumn, Cell]:
    """Return the column of the verdicts on a cost."""
    words = verdict_words(summary, metric)
    baselines = baseline_labels(summary)

    def cell(row: _Row) -> EntryCell:
        label = row.entry.label
        return _verdict(words.get(label, BASELINE if label in baselines else MISSING))

    return EntryColumn(f"{metric}_verdict", title, numeric=False, shown=True), cell


def _word(words: Mapping[str, str]) -> Cell:
    return lambda row: EntryCell(words.get(row.entry.label, MISSING))


def _runs(row: _Row) -> EntryCell:
    return EntryCell(runs_done(row.entry).replace(" done", "", 1), rank=len(row.entry.done))


def runs_done(entry: Entry) -> str:
    """Return how many runs are done, and the status of the others with its reason."""
    others = Counter(
        f"{run.status} ({run.reason})" if run.reason else run.status
        for run in entry.runs
        if run.status != "done"
    )
    done = f"{len(entry.done)} of {len(entry.runs)} done"
    return "; ".join([done, *(f"{n} {status}" for status, n in sorted(others.items()))])


def _caveats(summary: Summary) -> Cell:
    kinds = kinds_by_entry(summary.caveats)

    def cell(row: _Row) -> EntryCell:
        found = row.answer.caveats if row.answer else kinds.get(row.entry.label, ())
        return EntryCell(", ".join(found) or MISSING)

    return cell


def _level(study: StudyResults, axis: str) -> Cell:
    return lambda row: EntryCell(study.title(axis, row.entry.axes[axis]))


def _setting(values: Mapping[str, Mapping[str, Scalar]], key: str) -> Cell:
    def cell(row: _Row) -> EntryCell:
        return EntryCell(formatting.setting(key, values[row.entry.label].get(key)))

    return cell
