"""Equal tuning: the settings that are tried for every entry, the trials, and the choices."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from harness.results.records.base import Count, Finite, Positive, Seed, StrictModel, Versioned
from harness.results.records.estimates import Mean, Number
from harness.results.records.settings import ModelSettings, Steps, TrainSettings

TUNING = "tuning"  # axis of the settings before and after tuning
UNTUNED = "untuned"  # its levels
TUNED = "tuned"

Setting = bool | int | float | str | None  # value of a key of the study
SettingValues = dict[str, Setting]  # by dotted key
TuningMethod = Literal["grid", "random", "halving"]

SECTIONS: Mapping[str, type[StrictModel]] = {"model": ModelSettings, "train": TrainSettings}


def as_setting(key: str, value: object) -> Setting:
    """Return a value as the section of a dotted key stores it.

    Raises:
        ValueError: the section does not allow it; the message says why.
    """
    section, _, name = key.partition(".")
    field = SECTIONS[section].model_fields[name]
    annotation: Any = Annotated[(field.annotation, Field(), *field.metadata)]
    adapter: TypeAdapter[Setting] = TypeAdapter(annotation, config=ConfigDict(strict=True))
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        messages = [detail["msg"] for detail in error.errors()]
        text = ", or ".join(f"{message[:1].lower()}{message[1:]}" for message in messages)
        raise ValueError(text) from error


class TunedRange(StrictModel):
    """A range from which values are drawn."""

    low: Finite = Field(description="lowest value")
    high: Finite = Field(description="highest value")
    log: bool = Field(default=False, description="whether values are uniform in their logarithm")


class TuneSettings(StrictModel):
    """The tuning of a study: every entry tries the same settings on the same seeds."""

    axes: dict[str, list[Setting] | TunedRange] = Field(
        description="values or range of each tuned setting, by dotted key"
    )
    method: TuningMethod = Field(
        description="`grid`: all combinations; `random`: `budget` quasi-random settings; "
        "`halving`: the better half of the settings continues to the next rung"
    )
    seeds: Annotated[list[Seed], Field(min_length=1)] = Field(description="seeds of the trials")
    budget: Positive = Field(description="number of settings that each entry tries")
    rungs: list[Steps] = Field(default=[], description="steps of the trials of each rung")

    @property
    def n_runs(self) -> int:
        """The number of trials of each entry, over all rungs."""
        n_settings = sum(self.budget >> rung for rung in range(max(1, len(self.rungs))))
        return n_settings * len(self.seeds)


class TuningTrial(StrictModel):
    """The place of a run in the tuning of its entry."""

    entry: str = Field(description="entry that is tuned, without the axis `tuning`")
    settings: SettingValues = Field(description="settings that are tried, by dotted key")
    index: Count = Field(description="number of the setting, from 0")
    rung: Count = Field(default=0, description="rung of successive halving, from 0")


class TunedEntry(StrictModel):
    """The tuning of one entry. Its results are null until all trials have ended."""

    entry: str = Field(description="the entry, without the axis `tuning`")
    untuned: SettingValues = Field(description="the study's own settings, by dotted key")
    trials: list[str] = Field(description="run ids of the trials")
    chosen: SettingValues | None = Field(
        default=None, description="settings with the lowest mean loss over the tuning seeds"
    )
    val_loss: Finite | None = Field(
        default=None, description="this loss on the tuning windows, nats per token"
    )
    failed: list[str] = Field(
        default=[], description="run ids of the trials that failed; they count as infinite losses"
    )


class TuningRecord(Versioned):
    """tuning.json: what each entry tried, and the settings that were chosen for the final runs."""

    settings_hash: str = Field(description="hash of the settings that all entries share")
    settings: TuneSettings = Field(description="tuning of the study")
    entries: list[TunedEntry] = Field(description="each tuned entry")

    def of(self, entry: str) -> TunedEntry | None:
        """Return the tuning of an entry, None if it is not tuned."""
        return next((tuned for tuned in self.entries if tuned.entry == entry), None)


# -- results in summary.json ----------------------------------------------------------------------

# How a verdict at the study's own settings changes when both entries are tuned.
TuningOutcome = Literal[
    "holds",
    "shrinks",
    "grows",
    "vanishes",
    "not shown",
    "reverses",
    "appears",
    "no difference shown",
]


class SettingResult(StrictModel):
    """The losses of one entry at one of the settings that it tried."""

    entry: str = Field(description="the entry, without the axis `tuning`")
    rung: int = Field(description="rung of successive halving, from 0")
    steps: int = Field(description="steps of these trials")
    setting: str = Field(description="label of the settings")
    settings: SettingValues = Field(description="settings, by dotted key")
    seeds: list[int] = Field(description="tuning seeds that are done")
    seeds_failed: list[int] = Field(description="tuning seeds that failed; the loss is infinite")
    val_loss: Mean | None = Field(
        description="validation loss on the tuning windows, nats per token: mean over seeds; "
        "null if one of them failed"
    )
    val_loss_by_seed: list[Number] = Field(description="this loss of each seed that is done")
    chosen: bool = Field(description="whether the final runs use these settings")


class TunedKey(StrictModel):
    """One tuned key of one entry."""

    entry: str = Field(description="the entry, without the axis `tuning`")
    key: str = Field(description="dotted key of the setting")
    untuned: Setting = Field(description="the study's own value")
    chosen: Setting | None = Field(description="chosen value; null: not yet chosen")
    edge: Literal["lowest", "highest"] | None = Field(
        description="whether the chosen value is the lowest or the highest that was tried, so that "
        "the optimum may lie beyond; null: neither, or no value beyond is allowed"
    )
    suggested: Setting | None = Field(description="next value beyond the edge")


class TuningCost(StrictModel):
    """The cost of the tuning of one entry."""

    entry: str = Field(description="the entry, without the axis `tuning`")
    n_settings: int = Field(description="number of settings that were tried")
    n_runs: int = Field(description="number of trials")
    n_done: int = Field(description="number of trials that are done")
    n_failed: int = Field(description="number of trials that failed")
    flops: Number = Field(description="training FLOPs of the trials that are done")
    train_s: Number = Field(description="training time of the trials that are done, seconds")


class TuningComparison(StrictModel):
    """The difference from the baseline at the study's own settings, and with both tuned."""

    entry: str = Field(description="the entry, without the axis `tuning`")
    against: str = Field(description="the baseline, without the axis `tuning`")
    outcome: TuningOutcome | None = Field(
        description="how the verdict changes: a difference `holds`, `shrinks`, `grows`, "
        "`vanishes`, is `not shown` any more, `reverses` or `appears`; null without both verdicts"
    )
    untuned: Mean | None = Field(
        description="mean paired difference of final loss at the study's own settings"
    )
    untuned_verdict: str | None = Field(description="its verdict")
    tuned: Mean | None = Field(description="mean paired difference with both tuned")
    tuned_verdict: str | None = Field(description="its verdict")


class TuningResults(StrictModel):
    """The tuning of a study: trials, choices, costs, and the verdicts before and after."""

    settings: TuneSettings = Field(description="tuning of the study")
    trials: list[SettingResult] = Field(description="losses of each entry at each setting")
    keys: list[TunedKey] = Field(description="chosen value of each key and entry")
    costs: list[TuningCost] = Field(description="cost of the trials of each entry")
    comparisons: list[TuningComparison] = Field(description="verdicts before and after tuning")
