"""Lines of steps.rank<k>.jsonl, eval.jsonl and launches.jsonl."""

from pydantic import Field

from harness.results.records.base import (
    Count,
    Duration,
    Positive,
    Seconds,
    StrictModel,
    Time,
    Versioned,
    now,
)
from harness.results.records.imported import ImportSource
from harness.results.records.looks import LookPlan
from harness.results.records.settings import EquivalenceMargin, LadderSettings, Superiority

# Steps that are recorded but not timed: the first ones allocate, choose kernels and compile.
N_UNTIMED_STEPS = 5


class StepRecord(StrictModel):
    """One training step of one rank. A value that is not finite is written as null."""

    step: Count = Field(description="step number, from 0")
    loss: float | None = Field(
        description="mean training loss over the step's global tokens, nats per token"
    )
    step_s: Duration = Field(description="synchronized wall time of this rank, seconds")
    tokens: Positive = Field(description="tokens of the step over all processes")
    grad_norm: float | None = Field(description="global gradient norm before clipping")
    lr: float = Field(description="learning rate of the first parameter group: the matrices")
    warmup: bool = Field(description="whether the step is recorded but not timed")
    resumed: bool = Field(default=False, description="whether an attempt resumed at this step")
    saving: bool = Field(
        default=False,
        description="whether a rank wrote a checkpoint in the background during the step",
    )


class CorpusLoss(StrictModel):
    """The validation loss on one corpus of a mixture."""

    corpus: str = Field(description="name or path of the corpus")
    val_loss: float | None = Field(description="mean validation loss, nats per token")
    bits_per_byte: float | None = Field(description="the same loss in bits per byte of text")


class EvalRecord(StrictModel):
    """One evaluation. A value that is not finite is written as null."""

    step: Count = Field(description="number of steps done")
    val_loss: float | None = Field(
        description="mean validation loss over the fixed windows, nats per token"
    )
    bits_per_byte: float | None = Field(description="the same loss in bits per byte of text")
    ema_val_loss: float | None = Field(
        default=None,
        description="validation loss of the moving average of the parameters (`train.ema_decay`), "
        "nats per token; null without one",
    )
    train_s: Seconds = Field(description="sum of the step times so far, seconds")
    eval_s: Seconds = Field(description="wall time of this evaluation, seconds")
    by_corpus: list[CorpusLoss] = Field(
        default=[], description="losses on each corpus of a mixture; the others are their means"
    )


class LaunchInputs(StrictModel):
    """The study and the overrides of a launch. Files are in `archive/files`, named by SHA-256."""

    study_file: str = Field(description="archived study file")
    folder: str = Field(description="folder of the study file, to which its paths are relative")
    settings: list[str] = Field(description="values of `--set`")
    seeds: str | None = Field(description="value of `--seeds`; null: those of the study")
    where: list[str] = Field(description="values of `--where`")
    packages: str = Field(description="archived list of the installed packages and versions")
    git_commit: str | None = Field(
        description="commit of the harness; null: unknown, as outside of git"
    )
    data_folder: str | None = Field(description="value of ABLATIONS_DATA")


class LaunchRecord(Versioned):
    """One call of `run` or `ingest`."""

    at: Time = Field(default_factory=now, description="time of the call, ISO 8601, UTC")
    command: str | None = Field(default=None, description="command line")
    order: list[str] = Field(description="run ids in the order in which they are started")
    not_started: list[str] = Field(
        default=[],
        description="ids of the other runs that the launch asks for: they are done, have failed or "
        "run elsewhere",
    )
    settings_hash: str | None = Field(
        default=None, description="hash of the settings that were requested"
    )
    note: str | None = Field(
        default=None,
        description="note on the corpus: it replaces another one, or headers are skipped; of an "
        "imported study: the table that it replaces",
    )
    equivalence_margin: EquivalenceMargin | None = Field(
        default=None, description="equivalence margins of the study"
    )
    superiority: Superiority | None = Field(
        default=None, description="thresholds of improvement of the study"
    )
    compare: list[str] | None = Field(
        default=None,
        description="axes that the study asks about; the others that vary are its context; null: "
        "every axis is asked",
    )
    ladder: LadderSettings | None = Field(
        default=None, description="axis of the sizes over which scaling laws are fitted"
    )
    looks: LookPlan | None = Field(
        default=None,
        description="planned looks of a study that adds seeds where they are needed; null: the "
        "number of seeds is fixed",
    )
    look: Positive | None = Field(
        default=None, description="number of the look that this call's runs are for, from 1"
    )
    accepted_outdated: list[str] = Field(
        default=[], description="runs of older code that `--accept-outdated` kept"
    )
    inputs: LaunchInputs | None = Field(
        default=None, description="study file and overrides of the launch; null: not recorded"
    )
    imported: ImportSource | None = Field(
        default=None, description="table that the runs were imported from; null: they were trained"
    )
