"""Group the rows of tables into runs, and check that they form a study.

A long table has a row for each run, or for each evaluation of a run if it has a column `step`. A
wide table has a column for each seed (`seed0`, `seed1`, ...) with the validation loss.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.analysis.table_columns import COLUMNS
from harness.errors import Problem, choices
from harness.ingest.options import IngestRequest
from harness.ingest.tables import Row, Table, Value
from harness.ingest.values import Reader
from harness.results.frames import EVAL_COLUMNS, KEY_COLUMNS, RUN_COLUMNS
from harness.results.records import ImportedEval

ENTRY = "entry"
CONFIGURATION = "configuration"  # the axis of the labels in the column `entry`
SEED = "seed"
LOSS = "val_loss"
STEP = "step"
OPTIONAL = (STEP, "tokens", "train_s", "step_s", "peak_memory")
MEASURED = ("train_s", "step_s", "peak_memory")  # of a single run, not of a row of several seeds
SEED_COLUMN = re.compile(r"seed[ _=-]?(\d{1,6})")
FILE_NAME = re.compile(r"(.+?)[-_.]seed[-_=]?(\d{1,6})")  # of a table of one run
# Names that would be confused with columns of the tables of results, and axes with a meaning.
RESERVED = {"parallelism", "tuning"}
RESERVED |= {column.name for column in (*KEY_COLUMNS, *RUN_COLUMNS, *EVAL_COLUMNS)}
RESERVED |= {column.name for name in ("entries", "comparisons") for column in COLUMNS[name]}
MAX_STEP_S_RATIO = 300.0  # between runs of one unit; milliseconds are 1,000 seconds

Labels = tuple[str, ...]  # of the axes


@dataclass(frozen=True)
class Sample:
    """The values of one row for one run, and its place."""

    place: str
    step: int | None
    loss: float | None  # NaN if not finite, None if the row has none
    tokens: int | None
    train_s: float | None
    step_s: float | None
    peak_memory: int | None


@dataclass
class TableRun:
    """The rows of one run."""

    labels: Labels
    seed: int
    samples: list[Sample] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The run as messages call it."""
        return f"{'-'.join(self.labels)}, seed {self.seed}"

    @property
    def place(self) -> str:
        """The place of its first row."""
        return self.samples[0].place

    @property
    def evals(self) -> list[ImportedEval]:
        """The evaluations, by step."""
        found = []
        for sample in self.samples:
            if sample.loss is not None:
                loss = sample.loss if math.isfinite(sample.loss) else None
                record = ImportedEval(
                    step=sample.step, val_loss=loss, tokens=sample.tokens, train_s=sample.train_s
                )
                found.append(record)
        return found

    @property
    def is_failed(self) -> bool:
        """Whether the last loss is not finite."""
        return self.evals[-1].val_loss is None


@dataclass
class Runs:
    """The runs of all tables, by entry and seed, and their problems.

    `columns` are those with the labels of the axes.
    """

    columns: list[str]
    runs: dict[tuple[Labels, int], TableRun] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def axes(self) -> list[str]:
        """The axes of the study: the columns with labels, or that of `entry`."""
        return [CONFIGURATION] if self.columns == [ENTRY] else self.columns

    @property
    def entries(self) -> dict[Labels, list[TableRun]]:
        """The runs of each entry."""
        found: dict[Labels, list[TableRun]] = {}
        for run in self.runs.values():
            found.setdefault(run.labels, []).append(run)
        return found


def read_runs(tables: Sequence[Table], request: IngestRequest) -> Runs:
    """Return the runs of all tables, with all problems."""
    baseline = request.baseline_labels
    columns = {name for table in tables for name in table.columns}
    is_by_axes = baseline is not None and (ENTRY not in columns or set(baseline) <= columns)
    found = Runs(list(baseline) if is_by_axes and baseline else [ENTRY])
    for table in tables:
        found.problems += table.problems
        if table.rows:
            _read_table(table, found, request)
    repeated = [problem for run in found.runs.values() for problem in _repeated_rows(run)]
    if not found.problems and not repeated:
        found.problems += _problems_of_runs(found)
    found.problems += repeated
    if not found.problems and not request.allow_missing_seeds:
        found.problems += _missing_seeds(found)
    return found


def _read_table(table: Table, found: Runs, request: IngestRequest) -> None:
    columns = [name for name in table.columns if name not in request.ignore]
    seeds = {name: int(match[1]) for name in columns if (match := SEED_COLUMN.fullmatch(name))}
    is_wide = bool(seeds) and SEED not in columns and LOSS not in columns
    named = FILE_NAME.fullmatch(table.path.stem)
    is_one_run = named is not None and ENTRY not in columns and SEED not in columns and not is_wide
    required = [*found.columns] if is_wide else [*found.columns, SEED, LOSS]
    if is_one_run and found.columns == [ENTRY]:
        required = [LOSS]
    problems = [
        *_column_problems(table, columns, required, seeds if is_wide else {}, found.columns)
    ]
    found.problems += problems
    if any(name not in columns for name in required):
        return
    if problems:  # read the values for their problems only: an unknown column may be an axis
        found = replace(found, runs={})
    for row in table.rows:
        values = dict(row.values)
        if is_one_run and named is not None:
            values |= {ENTRY: named[1], SEED: named[2]}
        reader = Reader(row.place, found.problems)
        labels = [reader.label(axis, values.get(axis)) for axis in found.columns]
        if not is_wide:
            seed = reader.seed(SEED, values.get(SEED))
            sample = _sample(reader, row, values, LOSS)
            if seed is not None:
                _add(found, labels, seed, sample)
            continue
        for column, seed in seeds.items():
            if values.get(column) not in (None, "") or STEP in columns:
                _add(found, labels, seed, _sample(reader, row, values, column))


def _sample(reader: Reader, row: Row, values: Mapping[str, Value], loss: str) -> Sample:
    return Sample(
        place=row.place,
        step=reader.count(STEP, values.get(STEP)),
        loss=reader.loss(loss, values.get(loss)),
        tokens=reader.count("tokens", values.get("tokens")),
        train_s=reader.seconds("train_s", values.get("train_s"), allow_zero=True),
        step_s=reader.seconds("step_s", values.get("step_s")),
        peak_memory=reader.memory("peak_memory", values.get("peak_memory")),
    )


def _add(found: Runs, labels: Sequence[str | None], seed: int, sample: Sample) -> None:
    known = tuple(label for label in labels if label is not None)
    if len(known) == len(labels):
        run = found.runs.setdefault((known, seed), TableRun(known, seed))
        run.samples.append(sample)


def _column_problems(
    table: Table,
    columns: Sequence[str],
    required: Sequence[str],
    seeds: Mapping[str, int],
    axes: Sequence[str],
) -> Iterator[Problem]:
    """Yield the columns that are missing, unknown, or have no meaning together."""
    place = str(table.path)
    allowed = {*axes, SEED, LOSS, *OPTIONAL}
    unknown = [name for name in columns if name not in allowed and name not in seeds]
    missing = [name for name in required if name not in columns]
    for name in missing:
        message = f"has no column '{name}'; its columns: {', '.join(table.columns)}"
        if name == ENTRY:
            message += (
                "; add it, or name the columns that distinguish the runs and their baseline: "
                "--baseline COLUMN=LABEL, once for each column"
            )
        yield Problem(place, message)
    for name in unknown:
        if ENTRY in missing and name not in RESERVED:
            continue  # may be an axis: the message on the entry names it
        remedy = f"--ignore '{name}' leaves it out"
        if axes != [ENTRY] and name not in RESERVED:
            remedy = f"--baseline '{name}=LABEL' makes it an axis, {remedy}"
        yield Problem(place, f"unknown column '{name}'; {choices(name, allowed)}; {remedy}")
    for name in axes:
        if name != ENTRY and name in RESERVED:
            yield Problem(
                place,
                f"the column '{name}' cannot be an axis, because results have a column or an axis "
                "of this name with another meaning; rename it",
            )
    for name in MEASURED if seeds else ():
        if name in columns:
            yield Problem(
                place,
                f"the column '{name}' has one value for all seeds of a row; give each seed its row",
            )


def _problems_of_runs(found: Runs) -> Iterator[Problem]:
    """Yield the problems of the rows of each run, and of the units and names of all."""
    if not found.runs:
        yield Problem("", "the table has no run")
    for run in found.runs.values():
        yield from _problems_of_run(run)
    names: dict[str, Labels] = {}
    for labels in found.entries:
        name = "-".join(labels)
        if names.setdefault(name, labels) != labels:
            both = f"{' | '.join(names[name])} and {' | '.join(labels)}"
            yield Problem("", f"two entries have the name {name}: {both}; rename a label")
    yield from _incomplete_runs(found)
    yield from _mixed_units(found)


def _repeated_rows(run: TableRun) -> Iterator[Problem]:
    """Yield the rows that state a run, or a step of it, again."""
    first: dict[int | None, Sample] = {}
    for sample in run.samples:
        earlier = first.setdefault(sample.step, sample)
        if None in first and len(run.samples) > 1:
            earlier = run.samples[0]
        if earlier is not sample:
            step = "" if sample.step is None else f", step {sample.step:,}"
            message = f"repeats {run.name}{step} of {earlier.place}; keep one of the two rows"
            yield Problem(sample.place, message)


def _problems_of_run(run: TableRun) -> Iterator[Problem]:
    run.samples.sort(key=lambda sample: sample.step or 0)
    earlier = None
    for sample in run.samples:
        if earlier is not None:
            yield from _problems_of_order(earlier, sample)
        earlier = sample
    if run.samples[-1].loss is None:
        yield Problem(
            f"{run.samples[-1].place}: {LOSS}",
            f"is empty in the last row of {run.name}; write nan if the run diverged, or remove the "
            "row",
        )


def _problems_of_order(earlier: Sample, sample: Sample) -> Iterator[Problem]:
    for name in ("tokens", "train_s"):
        before = getattr(earlier, name)
        after = getattr(sample, name)
        if before is not None and after is not None and after < before:
            yield Problem(
                f"{sample.place}: {name}",
                f"{after} is less than {before} of an earlier step; it counts from the start of "
                "the run",
            )


def _incomplete_runs(found: Runs) -> Iterator[Problem]:
    """Yield the runs that end before others of their entry, unless they diverged."""
    for runs in found.entries.values():
        complete = [run for run in runs if run.samples[-1].loss is not None and not run.is_failed]
        steps = [run.samples[-1].step or 0 for run in complete]
        for run, step in zip(complete, steps, strict=True):
            if step < max(steps):
                yield Problem(
                    run.samples[-1].place,
                    f"{run.name} ends at step {step:,}, other seeds of the entry at "
                    f"{max(steps):,}; complete it, remove its rows, or end it with the loss nan if "
                    "it diverged",
                )


def _mixed_units(found: Runs) -> Iterator[Problem]:
    """Yield the runs with the longest and shortest steps if their units must be different."""
    typical = {}
    for run in found.runs.values():
        times = sorted(sample.step_s for sample in run.samples if sample.step_s is not None)
        if times:
            typical[run.name] = times[len(times) // 2]
    if not typical:
        return
    shortest = min(typical, key=typical.__getitem__)
    longest = max(typical, key=typical.__getitem__)
    if typical[longest] > MAX_STEP_S_RATIO * typical[shortest]:
        yield Problem(
            "step_s",
            f"is {typical[longest]:g} in {longest} and {typical[shortest]:g} in {shortest}; "
            "state all times in seconds",
        )


def _missing_seeds(found: Runs) -> Iterator[Problem]:
    """Yield the entries that lack a seed that others have: a run may have been lost."""
    seeds = {run.seed for run in found.runs.values()}
    for labels, runs in found.entries.items():
        missing = sorted(seeds - {run.seed for run in runs})
        if missing:
            yield Problem(
                runs[0].place,
                f"{'-'.join(labels)} has no seed {', '.join(map(str, missing))}; add a row with "
                "the loss nan if the run failed, or allow runs that were never started: "
                "--allow-missing-seeds",
            )
