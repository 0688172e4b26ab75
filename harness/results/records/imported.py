"""imported.json: a run of another trainer, with the values that its table states.

All that a table does not state is unknown: such a run has no model, no data and no training
settings, no FLOPs, no hardware and no number of processes.
"""

from pydantic import Field

from harness.results.records.base import Count, Duration, Finite, Positive, Seconds, StrictModel
from harness.results.records.run_spec import RunKeys, SourceFile


class ImportSource(StrictModel):
    """The table that a study was imported from."""

    path: str = Field(description="path of the table, or of the folder of tables, as given")
    sha256: str = Field(description="SHA-256 of the table; of a folder: of the names and SHA-256s")
    files: list[SourceFile] = Field(description="tables that were read")
    rows: Count = Field(description="number of rows of all tables")


class ImportedEval(StrictModel):
    """The values of one evaluation. A value that the table does not state is null."""

    step: Count | None = Field(default=None, description="number of steps done")
    val_loss: Finite | None = Field(
        description="validation loss, nats per token; null if it was not finite"
    )
    tokens: Count | None = Field(default=None, description="tokens trained on so far")
    train_s: Seconds | None = Field(default=None, description="training time so far, seconds")


class ImportedRun(RunKeys):
    """A run of another trainer."""

    evals: list[ImportedEval] = Field(
        min_length=1, description="evaluations by step; the last one is the result"
    )
    step_s: list[Duration] = Field(
        default=[], description="times of steps that the table states, seconds"
    )
    peak_memory_bytes: Positive | None = Field(
        default=None, description="largest peak memory that the table states, bytes; null: unknown"
    )

    @property
    def tuning(self) -> None:
        """None: an imported run is no trial of a tuning."""
        return None
