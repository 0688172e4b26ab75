"""[launch] of a study file: where and how runs start; not part of a run's id."""

import datetime
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from harness.results.records.base import Positive, StrictModel
from harness.results.records.settings import RunLimit, Steps, TimeLimit

Backend = Literal["local", "slurm"]
Timed = Literal["any", "exclusive"]

WHOLE_NODES = "--exclusive"  # option of sbatch
MAX_SIGNAL_S = 65_535  # Slurm's limit
# minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes[:seconds]
SLURM_TIME = re.compile(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}|infinite|unlimited", re.IGNORECASE)
# Options of sbatch that follow from the study, with the setting that changes them.
OWN_OPTIONS = {
    "account": "account",
    "constraint": "constraint",
    "cpus-per-gpu": "cpus_per_process",
    "cpus-per-task": "cpus_per_process",
    "gpus": "gpus_per_node",
    "gpus-per-node": "gpus_per_node",
    "gpus-per-socket": "gpus_per_node",
    "gpus-per-task": "gpus_per_node",
    "ntasks": "processes_per_node",
    "ntasks-per-core": "processes_per_node",
    "ntasks-per-gpu": "processes_per_node",
    "ntasks-per-node": "processes_per_node",
    "ntasks-per-socket": "processes_per_node",
    "partition": "partition",
    "qos": "qos",
    "signal": "signal_s",
    "time": "time",
}
# Options without which runs could not be found, saved or resumed, and those that start nothing.
FIXED_OPTIONS = (
    "array", "chdir", "clusters", "error", "export", "export-file", "help", "ignore-pbs", "input",
    "job-name", "no-requeue", "nodes", "open-mode", "output", "parsable", "quiet", "requeue",
    "test-only", "usage", "verbose", "version", "wait", "wrap",
)  # fmt: skip


def _check_word(text: str) -> str:
    if not re.fullmatch(r"[^\s\"'\\#]+", text) or not text.isprintable():
        raise ValueError("must be one word without quotes, backslashes and #")
    return text


def _time_text(value: object) -> object:
    """Return minutes, and a time of day as TOML reads it, as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.isoformat() if isinstance(value, datetime.time) else value


def _check_time(text: str) -> str:
    if not SLURM_TIME.fullmatch(text):
        raise ValueError(
            'must be "minutes", "minutes:seconds", "hours:minutes:seconds", "days-hours", '
            '"days-hours:minutes" or "days-hours:minutes:seconds"'
        )
    return text


def _check_line(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain a null character")
    return text


def _check_option(text: str) -> str:
    """Refuse an option that is not long, or that the study sets; sbatch takes short prefixes."""
    match = re.fullmatch(r"--([a-z0-9-]+)(=.*)?", text)
    if match is None or not text.isprintable():
        raise ValueError("must be --OPTION or --OPTION=VALUE, in one string")
    name = match[1]
    for option, setting in OWN_OPTIONS.items():
        if option == name or (option.startswith(name) and name not in OWN_OPTIONS):
            raise ValueError(f"follows from the study; use launch.slurm.{setting}")
    if any(option.startswith(name) for option in FIXED_OPTIONS):
        raise ValueError("is set for every job; remove it")
    if name == "gres" and "gpu" in text:
        raise ValueError(
            "follows from the study; use launch.slurm.gpus_per_node, and constraint for a type"
        )
    return text


Word = Annotated[str, Field(max_length=200), AfterValidator(_check_word)]
SlurmTime = Annotated[str, BeforeValidator(_time_text), AfterValidator(_check_time)]
SetupLine = Annotated[str, AfterValidator(_check_line)]
SbatchOption = Annotated[str, AfterValidator(_check_option)]


class SlurmSettings(StrictModel):
    """Resources that the jobs of a study request; null: the cluster's default."""

    partition: Word | None = Field(default=None, description="partitions, separated by commas")
    account: Word | None = Field(default=None, description="account that is charged")
    qos: Word | None = Field(default=None, description="quality of service")
    time: SlurmTime | None = Field(
        default=None, description="time limit of a job, as sbatch takes it: `04:00:00`, `1-12`"
    )
    gpus_per_node: Positive | None = Field(
        default=None, description="GPUs of a node; runs on GPUs need it"
    )
    cpus_per_process: Positive = Field(default=1, description="cores of each process")
    processes_per_node: Positive | None = Field(
        default=None,
        description="processes on a node, of runs on CPUs; null: all processes on one node",
    )
    constraint: Word | None = Field(
        default=None, description="features that the nodes must have, such as a type of GPU"
    )
    max_parallel: Positive | None = Field(
        default=None, description="jobs of an array that run at once; null: no limit"
    )
    per_element: Literal["auto"] | Positive = Field(
        default="auto", description="runs that one job trains in turn; `auto`: by predicted time"
    )
    signal_s: Annotated[int, Field(ge=1, le=MAX_SIGNAL_S)] = Field(
        default=60, description="seconds before the time limit at which runs save and requeue"
    )
    setup: list[SetupLine] = Field(
        default=[], description="lines of shell that each job runs first: `module load cuda`"
    )
    options: list[SbatchOption] = Field(
        default=[], description="further options of sbatch: `--mem=64G`"
    )

    @property
    def takes_whole_nodes(self) -> bool:
        """Whether a job shares its nodes with no other one."""
        return WHOLE_NODES in self.options


class LaunchSettings(StrictModel):
    """Where and how runs start, and which checkpoints they keep; not part of a run's id."""

    on: Backend = Field(default="local", description="`local`: this machine, or `slurm`")
    timeout_s: RunLimit | None = Field(
        default=None, description="wall time limit of a run, seconds; null: no limit"
    )
    stall_timeout_s: RunLimit | None = Field(
        default=600.0,
        description="limit of the time without a step, evaluation, checkpoint or printed line, "
        "seconds; null: no limit. Within it, the run is recorded as failed: `lost` if a process, a "
        "node or its link does not answer, else `timeout`. Its processes end soon after",
    )
    checkpoint_every: Steps | None = Field(
        default=None, description="steps between checkpoints; null: at each evaluation"
    )
    checkpoint_every_s: TimeLimit | None = Field(
        default=None,
        description="seconds after the last checkpoint at which another one is due, besides those "
        "of `checkpoint_every`; null: none",
    )
    keep_checkpoints: Literal["none", "weights", "full"] = Field(
        default="weights",
        description="kept of the newest and the best checkpoint: `none`, the `weights`, or `full`: "
        "also the optimizer state of the newest. Without any, interrupted runs start again",
    )
    parallel: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None,
        description="runs at once on this machine; null: as many as the GPUs allow, one on a CPU",
    )
    timed: Timed = Field(
        default="any",
        description="`exclusive`: each entry whose runs shared a machine gets a short run with the "
        "machine to itself, which measures its throughput; jobs of Slurm get whole nodes instead",
    )
    timing_steps: Steps = Field(default=20, description="steps of that run")
    network_interface: Word | None = Field(
        default=None,
        description="network interface between several nodes; null: the libraries choose it",
    )
    slurm: SlurmSettings = Field(
        default=SlurmSettings(), description="what jobs ask Slurm for, with `on` = `slurm`"
    )

    def job_settings(self) -> SlurmSettings:
        """Return the settings of jobs: those of `slurm`, and whole nodes if `timed` needs them."""
        if self.timed == "any" or self.slurm.takes_whole_nodes:
            return self.slurm
        # sbatch uses the last option: an earlier `--oversubscribe` has no effect.
        return self.slurm.model_copy(update={"options": [*self.slurm.options, WHOLE_NODES]})
