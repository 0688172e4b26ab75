"""Call Slurm's commands: text in, records out; no other module of the project calls them.

Each call has a timeout and a process group of its own, so that Ctrl-C does not end it halfway.
Variables of the environment that change what a query lists (`SQUEUE_STATES`, `SACCT_FORMAT`, ...)
are ignored; those of sbatch (`SBATCH_ACCOUNT`, ...) count.
"""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

QUERY_TIMEOUT_S = 30.0
SUBMIT_TIMEOUT_S = 300.0  # a busy controller takes minutes
JOBS_PER_CALL = 200  # of scancel and sacct: command lines are limited
QUERY_VARIABLES = ("SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_")
# Of sbatch: they would replace the array, the environment or the requeuing of every job.
FIXED_VARIABLES = ("SBATCH_ARRAY_INX", "SBATCH_EXPORT", "SBATCH_NO_REQUEUE", "SBATCH_WAIT")
RENAMED = {"time": "timelimit"}  # options whose variable has another name
SEPARATOR = "|"
QUEUE_FORMAT = SEPARATOR.join(("%i", "%F", "%K", "%T", "%r", "%N", "%j"))
ACCOUNT_FIELDS = ("JobID", "State", "ExitCode", "NodeList")
NODE_FORMAT = SEPARATOR.join(("%N", "%P", "%c", "%G", "%f", "%h"))
# States of jobs that wait in the queue, and of those that occupy nodes. All others have left it.
HELD_STATES = ("REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
WAITING_STATES = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", *HELD_STATES)
ENDING_STATES = ("COMPLETING", "SIGNALING", "STAGE_OUT")
STARTED_STATES = ("RUNNING", "RESIZING", "SUSPENDED", "STOPPED", *ENDING_STATES)


class CommandError(Exception):
    """A command of Slurm is missing, failed or did not answer; the message says which and why."""


class NoAnswerError(CommandError):
    """A command did not end in time: its effect may have happened, or may still."""


@dataclass(frozen=True)
class QueueEntry:
    """A job, or one element of an array job, as squeue shows it."""

    job: str  # as scancel takes it: `123`, or `123_4` for an element
    array_job: str  # `123`
    index: int | None  # of the element; None for a job without an array
    name: str
    state: str  # `PENDING`, `RUNNING`, ...; also of jobs that ended minutes ago
    reason: str  # why it is pending or failed; empty without one
    nodes: str  # as Slurm abbreviates them: `n[1-2]`; empty before the start

    @property
    def is_queued(self) -> bool:
        """Whether the job waits or runs: it has not left the queue."""
        return self.has_started or self.state in WAITING_STATES

    @property
    def has_started(self) -> bool:
        """Whether the job occupies nodes."""
        return self.state in STARTED_STATES


@dataclass(frozen=True)
class AccountEntry:
    """A job, or one element of an array job, as the accounting database shows it."""

    job: str  # `123` or `123_4`
    state: str  # `COMPLETED`, `OUT_OF_MEMORY`, `CANCELLED`, `TIMEOUT`, `NODE_FAIL`, ...
    exit_code: str  # `1:0`: exit code and signal
    nodes: str


@dataclass(frozen=True)
class NodeEntry:
    """A node in one partition, as sinfo shows it."""

    name: str
    partition: str
    is_default: bool  # whether the partition is the default one
    cpus: int
    gres: str  # such as `gpu:a100:4`; empty without
    features: str  # empty without
    oversubscribe: str = "NO"  # of the partition: `NO`, `EXCLUSIVE`, `YES:4`, `FORCE:4`

    @property
    def shares_by_force(self) -> bool:
        """Whether jobs share the node's cores, those that ask for whole nodes as well."""
        return self.oversubscribe.startswith("FORCE")


def sbatch(arguments: Sequence[str], script: str) -> str:
    """Submit a batch script and return the job id.

    Variables of the environment (`SBATCH_TIMELIMIT`) override no option that the script states.

    Raises:
        NoAnswerError: the job may have been submitted; its name finds it in the queue.
        CommandError: Slurm refused it.
    """
    stated = re.findall(r"^#SBATCH --([a-z-]+)", script, re.MULTILINE)
    ignored = [f"SBATCH_{RENAMED.get(name, name).upper().replace('-', '_')}" for name in stated]
    command = ["sbatch", "--parsable", *arguments]
    text = _call(command, script, (*QUERY_VARIABLES, *FIXED_VARIABLES, *ignored))
    job = text.strip().rpartition("\n")[2].partition(";")[0]  # `123;cluster` of several clusters
    if not job.isdecimal():
        raise CommandError(f"sbatch printed no job id: {text.strip()!r}")
    return job


def squeue(job_names: Iterable[str]) -> list[QueueEntry]:
    """Return the jobs of those names, each element of an array as one: one call.

    Jobs that ended minutes ago are among them, as long as Slurm remembers them.

    Raises:
        CommandError: the queue cannot be asked.
    """
    names = list(job_names)
    if not names:
        return []
    command = ["squeue", "--noheader", "--array", "--states=all", f"--format={QUEUE_FORMAT}"]
    return parse_squeue(_call([*command, f"--name={','.join(names)}"]))


def parse_squeue(text: str) -> list[QueueEntry]:
    """Return the entries of squeue's output in `QUEUE_FORMAT`.

    Raises:
        CommandError: a line has another form.
    """
    entries = []
    for fields in _read_lines("squeue", text, 7, r"\d+(_\S+)?\|.*"):
        job, array_job, index, state, reason, nodes, name = fields
        entries.append(
            QueueEntry(
                job=job,
                array_job=array_job,
                index=int(index) if index.isdecimal() else None,
                name=name,
                state=state,
                reason="" if reason == "None" else reason,
                nodes=nodes,
            )
        )
    return entries


def scancel(jobs: Sequence[str], signal_name: str | None = None) -> None:
    """Cancel jobs or elements of array jobs, or send them a signal. Jobs that ended are skipped.

    Raises:
        CommandError: Slurm refused it or did not answer.
    """
    command = ["scancel", "--quiet"]
    if signal_name is not None:
        command.append(f"--signal={signal_name}")
    targets = abbreviate(jobs)
    for start in range(0, len(targets), JOBS_PER_CALL):
        _call([*command, *targets[start : start + JOBS_PER_CALL]])


def requeue(job: str) -> None:
    """Put a running job, or element of an array job, back into the queue.

    Raises:
        CommandError: Slurm refused it or did not answer.
    """
    _call(["scontrol", "requeue", job])


def sacct(jobs: Sequence[str]) -> dict[str, AccountEntry]:
    """Return the accounting records of jobs and elements, by job.

    Raises:
        CommandError: this cluster has no accounting database, or it cannot be asked.
    """
    entries = {}
    command = ["sacct", "--noheader", "--parsable2", "--allocations", "--array"]
    command.append(f"--format={','.join(ACCOUNT_FIELDS)}")
    targets = abbreviate(jobs)
    for start in range(0, len(targets), JOBS_PER_CALL):
        text = _call([*command, f"--jobs={','.join(targets[start : start + JOBS_PER_CALL])}"])
        entries.update({entry.job: entry for entry in parse_sacct(text)})
    return entries


def parse_sacct(text: str) -> list[AccountEntry]:
    """Return the entries of sacct's output in `ACCOUNT_FIELDS`.

    Raises:
        CommandError: a line has another form.
    """
    entries = []
    for job, state, exit_code, nodes in _read_lines("sacct", text, len(ACCOUNT_FIELDS)):
        # `CANCELLED by 1000`
        entries.append(AccountEntry(job, state.partition(" ")[0], exit_code, nodes))
    return entries


def max_array_size() -> int:
    """Return the number of elements that one array job may have, at most.

    Raises:
        CommandError: the controller cannot be asked.
    """
    text = _call(["scontrol", "show", "config"])
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, re.MULTILINE)
    if match is None:
        raise CommandError("scontrol show config: printed no MaxArraySize")
    return int(match[1])


def n_cpus(node: str) -> int:
    """Return the number of CPUs of a node, as Slurm counts them.

    Raises:
        CommandError: the controller cannot be asked.
    """
    return int(_field(_call(["scontrol", "--oneliner", "show", "node", node]), "CPUTot"))


def shares_cores(job: int) -> bool:
    """Return whether other jobs may run on the cores of a job.

    Raises:
        CommandError: the controller cannot be asked.
    """
    text = _call(["scontrol", "--oneliner", "show", "job", str(job)])
    return _field(text, "OverSubscribe") == "YES"


def node_address(node: str) -> str:
    """Return the address of a node: its host name unless Slurm has another one.

    Raises:
        CommandError: the controller cannot be asked.
    """
    return _field(_call(["scontrol", "--oneliner", "show", "node", node]), "NodeAddr")


def hosts(abbreviated: str) -> list[str]:
    """Return the names of nodes that Slurm abbreviates: `n[1-2]`.

    Raises:
        CommandError: it is not a list of hosts.
    """
    return _call(["scontrol", "show", "hostnames", abbreviated]).split()


def _field(text: str, name: str) -> str:
    match = re.search(rf"\b{name}=(\S+)", text)
    if match is None:
        raise CommandError(f"scontrol printed no {name}")
    return match[1]


def nodes(partition: str | None = None) -> list[NodeEntry]:
    """Return the nodes of a partition, or of the default one.

    Raises:
        CommandError: the controller cannot be asked.
    """
    command = ["sinfo", "--noheader", "--Node", f"--format={NODE_FORMAT}"]
    if partition is not None:
        return parse_sinfo(_call([*command, f"--partition={partition}"]))
    return [node for node in parse_sinfo(_call(command)) if node.is_default]


def parse_sinfo(text: str) -> list[NodeEntry]:
    """Return the entries of sinfo's output in `NODE_FORMAT`.

    Raises:
        CommandError: a line has another form.
    """
    entries = []
    for fields in _read_lines("sinfo", text, 6, r"[^|]*\|[^|]*\|\d+\+?\|.*"):
        name, partition, cpus, gres, features, oversubscribe = fields
        entries.append(
            NodeEntry(
                name=name,
                partition=partition.removesuffix("*"),
                is_default=partition.endswith("*"),
                cpus=int(cpus.rstrip("+")),
                gres="" if gres == "(null)" else gres,
                features="" if features == "(null)" else features,
                oversubscribe=oversubscribe,
            )
        )
    return entries


def abbreviate(jobs: Iterable[str]) -> list[str]:
    """Return jobs with the elements of each array as one: `123_[0-3,7]`, at most 100 ranges each.

    >>> abbreviate(["7", "5_0", "5_1", "5_2", "5_9"])
    ['7', '5_[0-2,9]']
    """
    whole = []
    indices: dict[str, list[int]] = {}
    for job in jobs:
        array_job, separator, index = job.partition("_")
        if separator and index.isdecimal():
            indices.setdefault(array_job, []).append(int(index))
        else:
            whole.append(job)
    for array_job, numbers in indices.items():
        ranges = _ranges(sorted(set(numbers)))
        for start in range(0, len(ranges), 100):
            whole.append(f"{array_job}_[{','.join(ranges[start : start + 100])}]")
    return whole


def _ranges(numbers: Sequence[int]) -> list[str]:
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return [str(low) if low == high else f"{low}-{high}" for low, high in ranges]


def _read_lines(command: str, text: str, n_fields: int, pattern: str = ".*") -> Iterator[list[str]]:
    """Yield the fields of each line that a command has printed; the last may contain separators.

    Raises:
        CommandError: a line has fewer fields, or does not match the pattern.
    """
    for line in text.splitlines():
        if not line.strip():
            continue
        fields = line.strip().split(SEPARATOR, maxsplit=n_fields - 1)
        if len(fields) != n_fields or not re.fullmatch(pattern, line.strip()):
            raise CommandError(f"{command} printed an unknown line: {line.strip()!r}")
        yield fields


def _call(
    command: Sequence[str], text: str | None = None, ignored: Sequence[str] = QUERY_VARIABLES
) -> str:
    """Run a command with `text` as its input and return what it prints.

    Variables of the environment whose names begin with one of `ignored` are removed.

    Raises:
        CommandError: it is missing, fails or exceeds the time.
    """
    timeout_s = QUERY_TIMEOUT_S if text is None else SUBMIT_TIMEOUT_S
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(tuple(ignored))
    }
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if text is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        reason = "is not installed here" if isinstance(error, FileNotFoundError) else str(error)
        raise CommandError(f"{command[0]}: {reason}") from error
    try:
        output, errors = process.communicate(text, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise NoAnswerError(f"{command[0]}: no answer for {timeout_s:g} s") from error
    finally:
        _end(process)
    if process.returncode != 0:
        message = " ".join((errors or output).split())
        raise CommandError(f"{command[0]}: {message or f'exit code {process.returncode}'}")
    return output


def _end(process: "subprocess.Popen[str]") -> None:
    """End a command and its child processes, which may hold its output open."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
