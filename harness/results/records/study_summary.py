"""summary.json: the results of a study."""

from typing import Any

from pydantic import ConfigDict, Field

from harness.results.records.base import Versioned


class StudySummary(Versioned):
    """Results of one study; the sections after `settings_hash` have the keys of the report's tables."""

    model_config = ConfigDict(extra="allow", frozen=True)

    study: str = Field(description="name of the study")
    created_at: str = Field(description="time of the report, ISO 8601, UTC")
    settings_hash: str | None = Field(description="hash of the settings that all entries share")
    axes: dict[str, list[str]] = Field(description="labels of each axis, the baseline's first")
    baseline: dict[str, str] = Field(description="label of the baseline on each axis")
    entries: list[dict[str, Any]] = Field(description="results of each entry")
