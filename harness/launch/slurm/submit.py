"""Submit runs to Slurm as array jobs: snapshot of the code, records, batch scripts, sbatch."""

import os
import platform
import re
import secrets
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness.errors import Problem, StoreError, UserError
from harness.launch.one_run import prepare
from harness.launch.scheduler import N_WRITERS
from harness.launch.slurm import commands
from harness.launch.slurm.commands import CommandError, NoAnswerError, NodeEntry
from harness.launch.slurm.script import batch_script, path_problem, sbatch_arguments
from harness.launch.slurm.shapes import ArrayJob, node_types, plan_jobs, predicted_seconds
from harness.launch.slurm.snapshot import Snapshot, plan_snapshot
from harness.results.files import absolute
from harness.results.records import RunSpec, SlurmSettings, Submission
from harness.results.run import Run
from harness.results.store import Store

DEFAULT_ARRAY_SIZE = 1001  # Slurm's own default
# Folders that each machine has for itself, usually.
OWN_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
# Folders that jobs read as the submitting process does.
FOLDERS = ("ABLATIONS_DATA", "ABLATIONS_CACHE", "TIKTOKEN_CACHE_DIR", "HF_HOME")

Log = Callable[[str], None]


@dataclass(frozen=True)
class _Planned:
    """Array jobs that are not submitted yet, with the code that they run."""

    snapshot: Snapshot
    jobs: list[ArrayJob]
    notes: list[str]


def submit(
    store: Store, study: str, specs: Sequence[RunSpec], settings: SlurmSettings, log: Log
) -> list[Submission]:
    """Submit runs, which no element of the queue has to do; return a record for each array job.

    A record is written before sbatch is called and gets the job id afterwards: of a process that
    dies in between, the name of the job finds it.

    Raises:
        UserError: Slurm refuses a job or does not answer, or the code has changed. Jobs that were
            submitted before stay in the queue.
    """
    if not specs:
        return []
    planned = _plan(store, study, specs, settings)
    for note in planned.notes:
        log(note)
    planned.snapshot.write(specs)
    with ThreadPoolExecutor(N_WRITERS) as writers:
        list(writers.map(lambda spec: _prepare(store, planned.snapshot.localize(spec), log), specs))
    submissions = []
    for job in planned.jobs:
        submission = _new_submission(study, job, planned.snapshot, settings)
        submissions.append(_submit(store, study, submission, planned.snapshot))
    return submissions


def describe(store: Store, study: str, specs: Sequence[RunSpec], settings: SlurmSettings) -> str:
    """Return the commands and scripts that would submit runs; write no file.

    Raises:
        UserError: the runs cannot be submitted.
    """
    if not specs:
        return ""
    planned = _plan(store, study, specs, settings)
    blocks = [f"# {note}" for note in planned.notes]
    for job in planned.jobs:
        submission = _new_submission(study, job, planned.snapshot, settings)
        file = _file(store, study, submission)
        for index, run_ids in enumerate(submission.elements):
            blocks.append(f"# element {index}: {' '.join(run_ids)}")
        arguments = shlex.join(["sbatch", *sbatch_arguments(submission, file)])
        script = batch_script(submission, file, planned.snapshot.path, _variables())
        blocks.append(f"{arguments} <<'END_OF_SCRIPT'\n{script}END_OF_SCRIPT")
    return "\n".join(blocks)


def _plan(store: Store, study: str, specs: Sequence[RunSpec], settings: SlurmSettings) -> _Planned:
    """Divide the runs over array jobs.

    Raises:
        UserError: a path cannot be used, a run does not divide over nodes, or the cluster gives
            no job whole nodes.
    """
    root = absolute(store.root)
    problem = path_problem(root)
    if problem is not None:
        raise UserError([Problem(str(root), problem)])
    nodes = _nodes(settings)
    _check_whole_nodes(settings, nodes or [])
    known_s = _known_seconds(store, study, specs)

    def seconds_of(spec: RunSpec) -> float:
        known = known_s.get(_entry_key(spec.run_id))
        return predicted_seconds(spec, settings) if known is None else known

    try:
        jobs = plan_jobs(specs, settings, _array_size(), nodes, seconds_of)
    except ValueError as error:
        raise UserError([Problem("launch.slurm", str(error))]) from error
    notes = [*_own_folders(root, specs), *_notes(jobs, settings, nodes)]
    return _Planned(plan_snapshot(store, study, specs), jobs, notes)


def _check_whole_nodes(settings: SlurmSettings, nodes: Sequence[NodeEntry]) -> None:
    forced = sorted({node.partition for node in nodes if node.shares_by_force})
    if forced and settings.takes_whole_nodes:
        raise UserError(
            [
                Problem(
                    "launch.timed",
                    f"exclusive nodes are not to be had in {', '.join(forced)}, where jobs share "
                    "cores (OverSubscribe=FORCE); choose another launch.slurm.partition, or "
                    '"any": then throughput has no verdict',
                )
            ]
        )


def _own_folders(root: Path, specs: Sequence[RunSpec]) -> Iterator[str]:
    """Yield a note for each file that the nodes need and that only this machine may have."""
    needed = {"results": root, "the interpreter": Path(sys.executable).absolute()}
    for part in (*specs[0].launch.train_tokens, *specs[0].launch.val_tokens):
        needed["the tokens"] = Path(part.file).absolute()
    for content, path in needed.items():
        for folder in OWN_FOLDERS:
            if path.is_relative_to(folder):
                remedy = "; ABLATIONS_CACHE moves them" if content == "the tokens" else ""
                yield f"{content}: {path} is in {folder}, which nodes usually do not share{remedy}"


def _notes(
    jobs: Sequence[ArrayJob], settings: SlurmSettings, nodes: Sequence[NodeEntry] | None
) -> Iterator[str]:
    if settings.max_parallel is not None and len(jobs) > 1:
        yield (
            f"launch.slurm.max_parallel = {settings.max_parallel} counts for each of the "
            f"{len(jobs)} array jobs"
        )
    types = {} if nodes is None else node_types(nodes)
    if len(types) > 1 and settings.constraint is None:
        listed = "; ".join(f"{words} ({names[0]}, ...)" for words, names in types.items())
        yield (
            f"nodes of several types: {listed}. Runs on different hardware have no verdict on "
            "throughput; launch.slurm.constraint selects one type"
        )


def _nodes(settings: SlurmSettings) -> list[NodeEntry] | None:
    """Return the nodes that the jobs may use; None if it cannot be asked."""
    try:
        nodes = commands.nodes(settings.partition)
    except CommandError:
        return None
    if settings.constraint is not None and re.fullmatch(r"[\w.-]+", settings.constraint):
        nodes = [node for node in nodes if settings.constraint in node.features.split(",")]
    return nodes or None


def _array_size() -> int:
    """Return the number of elements of an array job, at most."""
    try:
        return commands.max_array_size()
    except CommandError:
        return DEFAULT_ARRAY_SIZE  # sbatch says what is wrong


def _entry_key(run_id: str) -> str:
    """Return the part of a run's id that names its entry."""
    return run_id.rpartition("-s")[0]


def _known_seconds(store: Store, study: str, specs: Sequence[RunSpec]) -> dict[str, float]:
    """Return the time of one finished run of each entry that has one."""
    wanted = {_entry_key(spec.run_id) for spec in specs}
    known: dict[str, float] = {}
    folder = store.root / study
    names = os.listdir(folder) if folder.is_dir() else []
    for name in sorted(names):
        key = _entry_key(name)
        if key not in wanted or key in known:
            continue
        try:
            probes = store.run(study, name).probes
        except StoreError:
            continue
        if probes is not None and probes.time is not None:
            seconds = probes.time
            trained_s = seconds.train_s + seconds.eval_s
            known[key] = max(trained_s, seconds.total_s or 0.0)
    return known


def _prepare(store: Store, spec: RunSpec, log: Log) -> None:
    """Make a run ready for its element: pending, with the spec that the element starts.

    Files of other code are set aside. A run that another process holds is left to it.
    """
    run = store.run(spec.study, spec.run_id)
    if run.exists and _is_prepared(run, spec):
        return
    try:
        claim = run.claim()
        if claim is None:
            log(f"{spec.run_id}: another process holds it; its element waits for that")
            return
        with claim:
            prepare(claim.run, spec, log)
    except StoreError as error:
        log(f"{spec.run_id}: its files were removed or damaged ({error})")


def _is_prepared(run: Run, spec: RunSpec) -> bool:
    try:
        return run.spec == spec
    except StoreError:
        return False


def _new_submission(
    study: str, job: ArrayJob, snapshot: Snapshot, settings: SlurmSettings
) -> Submission:
    identifier = secrets.token_hex(4)
    elements = [[spec.run_id for spec in element] for element in job.elements]
    return Submission(
        id=identifier,
        name=f"ablations-{study}-{identifier}",
        shape=job.shape,
        elements=elements,
        code=snapshot.hash,
        python=sys.executable,
        settings=settings,
        host=platform.node(),
    )


def _file(store: Store, study: str, submission: Submission) -> Path:
    return absolute(store.submission_path(study, submission))


def _submit(store: Store, study: str, submission: Submission, snapshot: Snapshot) -> Submission:
    """Record a submission, call sbatch, and record the job.

    Raises:
        UserError: Slurm refuses it, and the record is removed; or it does not answer.
    """
    file = _file(store, study, submission)
    script = batch_script(submission, file, snapshot.path, _variables())
    store.record_submission(study, submission)
    try:
        job = commands.sbatch(sbatch_arguments(submission, file), script)
    except NoAnswerError as error:
        raise UserError(
            f"{error}: the job {submission.name} may be in the queue; the same command finds it "
            "there, and submits only what is missing"
        ) from error
    except CommandError as error:
        file.unlink(missing_ok=True)
        raise UserError(f"Slurm refuses the job of {study}: {error}") from error
    return record_job(store, study, submission, job)


def record_job(store: Store, study: str, submission: Submission, job: str) -> Submission:
    """Record the job id of a submission; the time of the file stays that of the submission."""
    submitted = submission.model_copy(update={"job": job})
    file = store.submission_path(study, submission)
    times = os.stat(file)
    store.record_submission(study, submitted)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    return submitted


def _variables() -> dict[str, str]:
    """Return the variables of the environment that jobs need as they are here."""
    variables = {}
    for name in FOLDERS:
        value = os.environ.get(name)
        if value:
            variables[name] = str(Path(value).absolute())
    return variables
