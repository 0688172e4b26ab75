"""Equal tuning: the settings that are tried for every entry, the trials, and the choices."""

from typing import Annotated, Literal

from pydantic import Field

from harness.results.records.base import Count, Finite, Positive, Seed, StrictModel, Versioned
from harness.results.records.settings import Steps

Setting = bool | int | float | str  # value of a key of the study
Settings = dict[str, Setting]  # by dotted key
TuningMethod = Literal["grid", "random", "halving"]


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
    settings: Settings = Field(description="settings that are tried, by dotted key")
    index: Count = Field(description="number of the setting, from 0")
    rung: Count = Field(default=0, description="rung of successive halving, from 0")


class TunedEntry(StrictModel):
    """The tuning of one entry. Its results are null until all trials have ended."""

    entry: str = Field(description="the entry, without the axis `tuning`")
    untuned: Settings = Field(description="the study's own settings, by dotted key")
    trials: list[str] = Field(description="run ids of the trials")
    chosen: Settings | None = Field(
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

    settings: TuneSettings = Field(description="tuning of the study")
    entries: list[TunedEntry] = Field(description="each tuned entry")

    def of(self, entry: str) -> TunedEntry | None:
        """Return the tuning of an entry, None if it is not tuned."""
        return next((tuned for tuned in self.entries if tuned.entry == entry), None)
