"""Write the runs of tables as a study in the results folder."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.errors import Problem, UserError
from harness.ingest.options import IngestRequest
from harness.ingest.runs import ENTRY, Labels, Runs, TableRun, read_runs
from harness.ingest.tables import Table, read_tables
from harness.results.imported import replace_study
from harness.results.records import (
    EquivalenceMargin,
    ImportedRun,
    ImportSource,
    LaunchRecord,
    SourceFile,
    Superiority,
    VariantChoice,
)
from harness.results.records.base import short_hash
from harness.results.store import Store

MAX_LISTED = 20  # labels in a message
MAX_PROBLEMS = 50
MAX_NAME = 60  # characters of an entry in a run's id
LONG_STEP_S = 60.0
HIGH_LOSS = 20.0  # nats per token; a guess among 50,257 tokens has 10.8


@dataclass(frozen=True)
class Ingested:
    """The outcome: the runs of the study, whether anything was written, and what to know."""

    n_entries: int
    n_runs: int
    n_failed: int
    is_changed: bool
    notes: list[str]


def ingest(request: IngestRequest, store: Store) -> Ingested:
    """Write a study of the runs of a table or of a folder of tables.

    The same table changes nothing; a changed one replaces the study.

    Raises:
        UserError: the table or an argument is invalid, or a study of this name was not imported;
            nothing is written.
    """
    problems = request.problems()
    if store.runs(request.study) and not store.is_imported(request.study):
        message = f"{store.root / request.study} has runs of this program; choose another name"
        problems.append(Problem(f"--study {request.study}", message))
    tables = read_tables(request.table)
    found = read_runs(tables, request)
    problems += found.problems
    baseline: dict[str, str] = {}
    if not found.problems:
        baseline = _baseline(found, request, problems)
        problems += _bad_comparison(found, request)
    if problems:
        more = len(problems) - MAX_PROBLEMS
        rest = [Problem("", f"{more} more")] if more > 0 else []
        raise UserError(problems[:MAX_PROBLEMS] + rest)
    settings_hash = short_hash(found.axes)
    runs = [
        _run(run, found.axes, baseline, request.study, settings_hash) for run in _ordered(found)
    ]
    launch = LaunchRecord(
        command=request.command,
        order=[run.run_id for run in runs],
        settings_hash=settings_hash,
        # empty, not None: those of earlier imports do not apply
        equivalence_margin=request.equivalence_margin or EquivalenceMargin(),
        superiority=request.superiority_thresholds or Superiority(),
        compare=list(request.compare) or None,
        imported=_source(request, tables),
    )
    notes = [*_notes(found)]
    before = store.launches(request.study)
    is_changed = not before or not _is_same(store, request.study, before[-1], launch, runs)
    if is_changed:
        if before:
            launch = launch.model_copy(update={"note": _replacement(before[-1], launch)})
            notes.append(str(launch.note))
        replace_study(store, request.study, runs, launch)
    n_failed = sum(run.evals[-1].val_loss is None for run in runs)
    return Ingested(len(found.entries), len(runs), n_failed, is_changed, notes)


def _baseline(found: Runs, request: IngestRequest, problems: list[Problem]) -> dict[str, str]:
    """Return the baseline's label on each axis; a problem lists the entries if it is none."""
    entries = list(found.entries)
    known = ["-".join(labels) for labels in entries]
    listed = ", ".join(known[:MAX_LISTED])
    if len(known) > MAX_LISTED:
        listed += f" and {len(known) - MAX_LISTED} more"
    labels: Labels
    if found.columns != [ENTRY]:
        stated = request.baseline_labels or {}
        labels = tuple(stated[axis] for axis in found.columns)
    elif request.baseline:
        labels = tuple(request.baseline)
    elif len(entries) == 1:
        labels = entries[0]
    else:
        message = f"is missing: name the entry that others are compared with; entries: {listed}"
        problems.append(Problem("--baseline", message))
        return {}
    if labels not in entries:
        message = f"is not an entry; entries: {listed}"
        problems.append(Problem(f"--baseline {' '.join(request.baseline)}", message))
    return dict(zip(found.axes, labels, strict=True))


def _bad_comparison(found: Runs, request: IngestRequest) -> Iterator[Problem]:
    for axis in request.compare:
        if axis not in found.axes:
            yield Problem(f"--compare {axis}", f"is not an axis; axes: {', '.join(found.axes)}")


def _ordered(found: Runs) -> list[TableRun]:
    """Return the runs by entry, in the order of the table, and seed."""
    return [run for runs in found.entries.values() for run in sorted(runs, key=lambda r: r.seed)]


def _run(
    run: TableRun, axes: Sequence[str], baseline: dict[str, str], study: str, settings_hash: str
) -> ImportedRun:
    step_s = [sample.step_s for sample in run.samples if sample.step_s is not None]
    peaks = [sample.peak_memory for sample in run.samples if sample.peak_memory is not None]
    labels = dict(zip(axes, run.labels, strict=True))
    name = re.sub(r"[^A-Za-z0-9._+]", "_", "-".join(run.labels))[:MAX_NAME].lstrip("._") or "entry"
    content = [
        labels,
        run.seed,
        [line.model_dump() for line in run.evals],
        step_s,
        max(peaks, default=None),
    ]
    return ImportedRun(
        study=study,
        run_id=f"{name}-s{run.seed}-{short_hash(content)}",
        entry="-".join(run.labels),
        seed=run.seed,
        settings_hash=settings_hash,
        baseline=baseline,
        axes={
            axis: VariantChoice(name=label, label=label, options={})
            for axis, label in labels.items()
        },
        evals=run.evals,
        step_s=step_s,
        peak_memory_bytes=max(peaks, default=None),
    )


def _source(request: IngestRequest, tables: Sequence[Table]) -> ImportSource:
    files = [SourceFile(file=str(table.path), sha256=table.sha256) for table in tables]
    digest = files[0].sha256
    if request.table.is_dir():
        digest = hashlib.sha256(
            json.dumps([[t.path.name, t.sha256] for t in tables]).encode()
        ).hexdigest()
    return ImportSource(
        path=str(request.table),
        sha256=digest,
        files=files,
        rows=sum(len(table.rows) for table in tables),
    )


def _is_same(
    store: Store, study: str, before: LaunchRecord, launch: LaunchRecord, runs: list[ImportedRun]
) -> bool:
    """Return whether the study already has these runs, from this table and with these options."""
    differing = {"at": before.at, "command": before.command, "note": before.note}
    if before != launch.model_copy(update=differing):
        return False
    stored = {run.run_id: run for run in store.runs(study)}
    return set(stored) == {run.run_id for run in runs} and all(
        stored[run.run_id].imported == run for run in runs
    )


def _replacement(before: LaunchRecord, launch: LaunchRecord) -> str:
    same = len(set(before.order) & set(launch.order))
    new = len(launch.order) - same
    gone = len(before.order) - same
    table = f" (SHA-256 {before.imported.sha256[:12]})" if before.imported else ""
    return (
        f"replaces the import of {before.at}{table}: {same} runs are the same, {new} are new or "
        f"changed, {gone} are gone or changed"
    )


def _notes(found: Runs) -> Iterator[str]:
    """Yield what looks like another unit, without being impossible."""
    runs = found.runs.values()
    times = sorted(s.step_s for run in runs for s in run.samples if s.step_s is not None)
    if times and times[len(times) // 2] > LONG_STEP_S:
        yield (
            f"step_s has a median of {times[len(times) // 2]:g} seconds; divide milliseconds by "
            "1,000"
        )
    losses = [line.val_loss for run in runs for line in run.evals[-1:] if line.val_loss is not None]
    if losses and min(losses) > HIGH_LOSS:
        yield (
            f"every val_loss is above {HIGH_LOSS:g} nats per token; give the logarithm of a "
            "perplexity"
        )
