"""status.json and env.json: the state of a run, and the machine and software it ran on."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from harness.results.records.base import Count, Finite, Positive, StrictModel, Time, Versioned

RunState = Literal["pending", "running", "done", "failed", "interrupted"]
ENDED: Sequence[RunState] = ("done", "failed")  # states of a run that is not resumed
Timing = Literal["exclusive", "shared"]
FailureReason = Literal["oom", "nan", "timeout", "killed", "lost", "disk", "error"]


class Owner(StrictModel):
    """The process that holds a claim."""

    host: str = Field(description="host name")
    boot_id: str = Field(description="identifies the start of the host's kernel")
    pid_namespace: str | None = Field(description="namespace of the process id, on Linux")
    pid: Count = Field(description="process id")
    pid_started: Finite = Field(description="start of the process, seconds since the epoch")
    job: str | None = Field(default=None, description="id of the Slurm job, such as 123 or 123_4")
    job_restarts: Count = Field(default=0, description="number of restarts of the job by Slurm")


class RunStatus(Versioned):
    """The state of a run. A `running` run whose process has ended reads as `interrupted`."""

    status: RunState = Field(description="`pending`, `running`, `done`, `failed` or `interrupted`")
    reason: FailureReason | None = Field(
        default=None,
        description="cause of a failure or interruption: oom, nan, timeout, killed, lost, disk (it "
        "is full) or error",
    )
    message: str | None = Field(default=None, description="one line that explains the reason")
    started_at: Time | None = Field(
        default=None, description="start of the newest attempt, ISO 8601, UTC"
    )
    ended_at: Time | None = Field(
        default=None, description="end of the newest attempt, ISO 8601, UTC"
    )
    host: str | None = Field(default=None, description="host name")
    pid: Count | None = Field(default=None, description="process id of rank 0 or of the launcher")
    pid_started: Finite | None = Field(
        default=None, description="start of that process, seconds since the epoch"
    )
    boot_id: str | None = Field(
        default=None, description="identifies the start of that host's kernel"
    )
    pid_namespace: str | None = Field(
        default=None, description="namespace of the process id, on Linux"
    )
    job: str | None = Field(default=None, description="id of the Slurm job, such as 123 or 123_4")
    claim: Count | None = Field(
        default=None,
        description="number of the claim under which the attempt runs; null: without a claim",
    )
    attempts: Count = Field(
        default=0, description="number of attempts since the run last started from step 0"
    )
    accepted_code_hash: str | None = Field(
        default=None,
        description="hash of newer code under which the user kept the result of the older code",
    )

    @model_validator(mode="after")
    def _check_process(self) -> Self:
        if self.status == "running" and (self.pid is None or self.pid_started is None):
            raise ValueError("a running run needs `pid` and `pid_started`")
        return self


class Environment(Versioned):
    """Machine, software and commit of a run."""

    version: str | None = Field(default=None, description="version of this package")
    python: str | None = Field(default=None, description="version of Python")
    torch: str | None = Field(default=None, description="version of PyTorch")
    numpy: str | None = Field(default=None, description="version of NumPy")
    platform: str | None = Field(default=None, description="operating system")
    host: str | None = Field(default=None, description="host name")
    cpu: str | None = Field(default=None, description="processor name")
    cores: Count | None = Field(default=None, description="number of physical cores")
    memory_bytes: Count | None = Field(default=None, description="main memory, bytes")
    gpu: str | None = Field(default=None, description="GPU name; null on a CPU")
    cuda: str | None = Field(default=None, description="version of CUDA; null on a CPU")
    threads: Count | None = Field(default=None, description="threads per process")
    world_size: Count | None = Field(default=None, description="number of processes")
    backend: str | None = Field(default=None, description="`torch.distributed` backend")
    precision: str | None = Field(default=None, description="type of the computation")
    compile: bool | None = Field(default=None, description="whether the model was compiled")
    deterministic: bool | None = Field(
        default=None, description="whether only deterministic kernels were used"
    )
    usable_cores: Count | None = Field(
        default=None,
        description="cores that a process of the run may use; null: not recorded",
    )
    hosts: list[str] = Field(
        default=[], description="hosts of all processes, each once; empty: not recorded"
    )
    n_nodes: Positive = Field(default=1, description="number of machines of the processes")
    devices: str | None = Field(
        default=None, description="value of CUDA_VISIBLE_DEVICES; null: not set"
    )
    pinned_cores: list[Count] = Field(
        default=[], description="cores that the first process was pinned to; empty: not pinned"
    )
    timing: Timing | None = Field(
        default=None,
        description="`shared` if other runs could run on the machine at the same time, else "
        "`exclusive`; null: not recorded",
    )
    job: str | None = Field(
        default=None, description="Slurm's id of the job, or of the element of a job array"
    )
    earlier_machines: list[str] = Field(
        default=[],
        description="host and processor of earlier attempts on other machines, from which the run "
        "was resumed",
    )
    git_commit: str | None = Field(
        default=None, description="commit of the code; null: unknown, as outside of git"
    )
    git_dirty: bool | None = Field(
        default=None, description="whether the code had uncommitted changes; null: unknown"
    )

    @property
    def without_place(self) -> "Environment":
        """The environment without the place of the run: job, devices, cores, and a job's hosts."""
        place: dict[str, object] = {
            "hosts": [],
            "devices": None,
            "pinned_cores": [],
            "job": None,
        }
        host = self.host if self.job is None else None
        return self.model_copy(update=place | {"host": host})

    @property
    def node_type(self) -> str:
        """The GPU or the processor, and the number of cores."""
        return f"{self.gpu or self.cpu or 'unknown'}, {self.cores or 'unknown'} cores"

    @property
    def machine(self) -> str:
        """The host, its processor and its GPU, if it has one."""
        parts = [self.host, self.gpu or self.cpu]
        return ": ".join(part or "unknown" for part in parts)
