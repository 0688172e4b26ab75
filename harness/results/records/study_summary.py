"""summary.json: the results of a study."""

from pydantic import Field

from harness.results.records.base import Versioned
from harness.results.records.lines import LaunchRecord

Item = dict[str, object]


class StudySummary(Versioned):
    """Results of one study.

    The items of each list have the keys of the CSV table of the same name. A value with an
    interval is an object: the value (`mean`, `median` or `ratio`), `ci95` (low and high end), and
    `n`, the number of seeds, if it is a mean.
    """

    study: str = Field(description="name of the study")
    created_at: str = Field(description="time of the report, ISO 8601, UTC")
    settings_hash: str | None = Field(description="hash of the settings that all entries share")
    axes: dict[str, list[str]] = Field(description="labels of each axis, the baseline's first")
    baseline: dict[str, str] = Field(description="label of the baseline on each axis")
    settings: dict[str, Item | None] = Field(
        description="sections `model`, `data` and `train` of spec.json"
    )
    runs: dict[str, int] = Field(description="number of runs per status")
    left_out: dict[str, int] = Field(
        description="`other_settings`: number of runs with a different settings hash; "
        "`superseded`: number of runs replaced by a newer run of the same entry and seed"
    )
    unreadable: list[Item] = Field(description="`name` of each damaged folder or file, and `why`")
    entries: list[Item] = Field(
        description="results of each entry, with its runs and, if they were measured, `memory`, "
        "`predicted_memory`, `phases`, `traffic`, `decoding` and `lengths`"
    )
    comparisons: list[Item] = Field(description="paired differences from the baseline")
    verdicts: dict[str, Item] = Field(
        description="tests of `val_loss`, `tokens_per_s` and `peak_memory`: `margin`, `entries`, "
        "`main_effects`, `interactions`, and the `design` of the linear model"
    )
    rankings: list[Item] = Field(description="validation loss at an equal budget")
    savings: list[Item] = Field(description="cost to reach the baseline's final loss")
    variance: list[Item] = Field(description="sources of the noise; empty unless seeds are crossed")
    equivalence: list[Item] = Field(
        description="deviation of each parallel run from the single-process run"
    )
    scaling: list[Item] = Field(description="speedup over fewer processes")
    environments: list[Item] = Field(description="each distinct `env` with its `runs`")
    launches: list[LaunchRecord] = Field(description="lines of launches.jsonl")
