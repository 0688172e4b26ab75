"""submissions/<id>.json: an array job that was given to Slurm."""

from pydantic import Field

from harness.results.records.base import Count, Positive, StrictModel, Time, Versioned, now
from harness.results.records.launch_settings import SlurmSettings


class JobShape(StrictModel):
    """The nodes, processes and devices that a run needs."""

    n_nodes: Positive = Field(default=1, description="number of nodes")
    processes_per_node: Positive = Field(default=1, description="processes on each node")
    gpus_per_node: Count = Field(default=0, description="GPUs on each node; 0 on a CPU")
    cpus_per_process: Positive = Field(default=1, description="cores of each process")


class Submission(Versioned):
    """One call of sbatch: an array job whose elements train runs, one after the other."""

    id: str = Field(description="identifier within the study")
    at: Time = Field(default_factory=now, description="when it was submitted")
    job: str | None = Field(default=None, description="id of the job; null: not yet known")
    name: str = Field(description="name of the job, which finds it in the queue")
    shape: JobShape = Field(default=JobShape(), description="what each element asks Slurm for")
    elements: list[list[str]] = Field(description="run ids of each element of the array")
    code: str = Field(default="", description="folder of the code snapshot in `.code/`")
    python: str = Field(default="", description="path of the interpreter")
    settings: SlurmSettings = Field(
        default=SlurmSettings(), description="settings of the submission"
    )
    host: str = Field(default="", description="host of the process that submitted it")
