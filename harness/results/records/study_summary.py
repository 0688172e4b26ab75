"""summary.json: the results of a study, computed by `harness.analysis`."""

from pydantic import Field

from harness.results.records.answer import Answer
from harness.results.records.base import StrictModel, Versioned
from harness.results.records.caveats import Caveat
from harness.results.records.comparisons import (
    BaselineComparison,
    CostToBaselineLoss,
    MetricTests,
    Quantity,
    Ranking,
    VarianceComponents,
)
from harness.results.records.contexts import ContextResult
from harness.results.records.entries import EntryResult, EquivalenceStatus, Spike
from harness.results.records.estimates import Bounds, Median, Number, Ratio
from harness.results.records.ladder import Ladder
from harness.results.records.lines import LaunchRecord
from harness.results.records.looks import Looks
from harness.results.records.run_spec import ResolvedData, ResolvedModel
from harness.results.records.settings import TrainSettings
from harness.results.records.status import Environment, RunState
from harness.results.records.tuning import TuningResults

Scalar = str | int | float | bool | None


# -- parallel runs --------------------------------------------------------------------------------


class Equivalence(StrictModel):
    """The check of one run against the run of the same seed of the reference entry.

    Numbers are null without a reference run.
    """

    entry: str = Field(description="the entry: its variants' labels, joined by hyphens")
    against: str | None = Field(
        description="the reference: one process, else the baseline's parallelism"
    )
    seed: int = Field(description="seed of the run")
    verdict: EquivalenceStatus = Field(
        default="not checked",
        description="`bitwise`, `within tolerance`, `DIVERGES` or `not checked`",
    )
    reason: str | None = Field(default=None, description="why the run diverges or was not checked")
    bitwise: bool | None = Field(
        default=None, description="whether all training losses are identical"
    )
    initial_hash_equal: bool | None = Field(
        default=None, description="whether the initial parameters are identical"
    )
    ranks_agree: bool | None = Field(
        default=None, description="whether all ranks end with the same parameters"
    )
    max_rel_loss_dev_first5: Number | None = Field(
        default=None, description="largest relative loss deviation, 5 steps"
    )
    max_rel_grad_norm_dev_first5: Number | None = Field(
        default=None, description="the same of the gradient norm"
    )
    rel_loss_tolerance: Number | None = Field(
        default=None, description="tolerance of the loss deviation"
    )
    rel_grad_norm_tolerance: Number | None = Field(
        default=None, description="tolerance of the gradient norm deviation"
    )
    abs_loss_dev_first: Number | None = Field(
        default=None, description="loss deviation of the first step, nats per token"
    )
    abs_loss_dev_last: Number | None = Field(
        default=None, description="loss deviation of the last step, nats per token"
    )
    max_abs_loss_dev: Number | None = Field(
        default=None, description="largest loss deviation, nats per token"
    )
    abs_val_loss_dev: Number | None = Field(
        default=None, description="deviation of final validation loss, nats per token"
    )


class ScalingRow(StrictModel):
    """One entry of a group of entries that differ only in the number of processes."""

    entry: str = Field(description="the entry: its variants' labels, joined by hyphens")
    group: str = Field(description="common labels of the compared entries")
    world_size: int = Field(description="number of processes")
    tokens_per_s: Median = Field(description="throughput")
    against: str = Field(description="the entry that it is compared with")
    against_world_size: int = Field(description="number of processes of that entry")
    speedup: Ratio = Field(description="throughput over that of `against`")
    efficiency: Number = Field(description="speedup over the ratio of the numbers of processes")
    efficiency_ci95: Bounds | None = Field(
        default=None,
        description="its 95 % interval; null for a single seed, and for the reference",
    )


# -- the study ------------------------------------------------------------------------------------


class SharedSettings(StrictModel):
    """The sections of spec.json that all entries share; null if the study has no runs."""

    model: ResolvedModel | None = Field(default=None, description="model shape")
    data: ResolvedData | None = Field(default=None, description="text")
    train: TrainSettings | None = Field(default=None, description="training and evaluation")


class LeftOut(StrictModel):
    """Numbers of runs that the report does not cover."""

    other_settings: int = Field(description="runs with a different settings hash")
    superseded: int = Field(description="runs replaced by a newer run of the same entry and seed")


class SettingsGroup(StrictModel):
    """Runs of a study that share their settings; a report covers one such group."""

    settings_hash: str = Field(description="hash of the settings")
    runs: int = Field(description="number of runs")
    newest: str | None = Field(description="time of the newest start, ISO 8601, UTC")
    reported: bool = Field(description="whether the report covers these runs")
    differs: list[str] = Field(
        description="settings that differ from those of the reported runs, with both values"
    )


class FileDifference(StrictModel):
    """A setting that the study file states otherwise than the runs have it."""

    key: str = Field(description="dotted key")
    stated: str = Field(description="value in the study file, as TOML")
    used: str = Field(description="value in the newest runs, as TOML")


class FollowedFile(StrictModel):
    """The study file that the report follows: axes, margins, thresholds, looks and labels."""

    path: str = Field(description="path of the study file")
    left_out: int = Field(description="runs of entries that the file no longer contains")
    differences: list[FileDifference] = Field(
        description="settings of the file that the newest runs do not have"
    )
    looks_edited: bool = Field(
        description="whether the looks were edited after the launch of the runs"
    )


class SelectedEntries(StrictModel):
    """The part of a study that a report covers, as its command selects it."""

    where: list[str] = Field(description="conditions of `--where`")
    entries_left_out: int = Field(description="entries that match no condition")
    baseline: list[str] = Field(description="levels of `--baseline`, which replace the study's")
    settings: str | None = Field(description="settings hash of `--settings`; null: not given")


class Unreadable(StrictModel):
    """A run's folder, or a file of the study, that cannot be read."""

    name: str = Field(description="name of the folder or file")
    why: str = Field(description="the reason")


class EnvironmentRuns(StrictModel):
    """An environment and the runs that have it."""

    env: Environment = Field(description="content of env.json")
    runs: list[str] = Field(description="run ids")


class StudySummary(Versioned):
    """Results of one study. A number that is not finite is null."""

    study: str = Field(description="name of the study")
    created_at: str = Field(description="time of the report, ISO 8601, UTC")
    settings_hash: str | None = Field(description="hash of the settings that all entries share")
    axes: dict[str, list[str]] = Field(description="labels of each axis, the baseline's first")
    baseline: dict[str, str] = Field(description="label of the baseline on each axis")
    asked: list[str] = Field(
        default=[], description="varying axes whose levels are compared; the others are context"
    )
    contexts: list[str] = Field(default=[], description="context axes: compared entries agree here")
    settings: SharedSettings = Field(
        description="settings of the newest run, which all entries share except for `varied`"
    )
    varied: dict[str, dict[str, Scalar]] = Field(
        default={},
        description="value of each setting that differs between entries, by the label of the axis "
        "that sets it, or by entry if it depends on several axes",
    )
    runs: dict[RunState, int] = Field(description="number of runs by status")
    left_out: LeftOut = Field(description="number of runs that are left out")
    study_file: FollowedFile | None = Field(
        default=None, description="study file that is followed; null: as the newest launch"
    )
    selected: SelectedEntries | None = Field(
        default=None, description="the selection of the command; null: the whole study"
    )
    settings_groups: list[SettingsGroup] = Field(
        default=[], description="runs by settings; empty if all have the same"
    )
    unreadable: list[Unreadable] = Field(description="damaged folders and files")
    caveats: list[Caveat] = Field(
        default=[], description="reasons not to take results at face value"
    )
    answer: Answer | None = Field(
        default=None, description="the answer to the study's question; null in older files"
    )
    entries: list[EntryResult] = Field(description="results of each entry")
    comparisons: list[BaselineComparison] = Field(
        description="paired differences from the baseline"
    )
    verdicts: dict[Quantity, MetricTests] = Field(description="tests of each metric")
    rankings: list[Ranking] = Field(description="validation loss at an equal budget")
    savings: list[CostToBaselineLoss] = Field(description="cost of reaching a final loss")
    variance: list[VarianceComponents] = Field(
        description="sources of the noise; empty unless seeds are crossed"
    )
    equivalence: list[Equivalence] = Field(
        description="deviation of each parallel run from the single-process run"
    )
    scaling: list[ScalingRow] = Field(description="speedup over fewer processes")
    compared_contexts: list[ContextResult] = Field(
        default=[],
        description="the contexts side by side, the parallelism among them; empty without any",
    )
    ladder: Ladder | None = Field(
        default=None, description="scaling laws over the sizes of an axis; null without a ladder"
    )
    spikes: list[Spike] = Field(
        default=[], description="loss spikes and gradient norm outliers of all runs"
    )
    tuning: TuningResults | None = Field(
        default=None, description="tuning of the study; null if it does not tune"
    )
    looks: Looks | None = Field(
        default=None,
        description="looks at the results, with the level of each; null: one look, level 0.05",
    )
    environments: list[EnvironmentRuns] = Field(
        description="each distinct env.json, without the place of the run: job, devices, cores"
    )
    imported: bool = Field(
        default=False, description="whether the runs are of another trainer (`ingest`)"
    )
    launches: list[LaunchRecord] = Field(description="lines of launches.jsonl")
