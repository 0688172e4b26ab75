"""Base class and value types of the records."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

SCHEMA_VERSION = 3

# The largest integer that a float64 holds exactly; tables convert counts to floats.
MAX_COUNT = 2**53
SEEDS_END = 1_000_000
STUDY_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"  # which is the name of a folder
MAX_STUDY_NAME = 80  # characters
# Larger than any float32, and its square is far from an overflow.
MAX_NUMBER = 1e100

Finite = Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER, allow_inf_nan=False)]
Seconds = Annotated[Finite, Field(ge=0)]
Duration = Annotated[Finite, Field(gt=0)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Positive = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Seed = Annotated[int, Field(ge=0, lt=SEEDS_END)]


def _check_time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("must state its time zone")
    return text


Time = Annotated[str, AfterValidator(_check_time)]  # ISO 8601 with a time zone


def now() -> str:
    """Return the time in UTC as ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat()


_ADDED = "added"


def added(default: object, description: str) -> Any:
    """Declare a field that older versions lack: at its default it does not change a run's id."""
    return Field(default=default, description=description, json_schema_extra={_ADDED: True})


def short_hash(value: object) -> str:
    """Return the first 8 digits of the SHA-256 of a JSON value, as in a run's id."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:8]


def canonical_json(value: object) -> str:
    """Return a text that is the same for equal JSON values: -0.0 counts as 0.0."""
    return json.dumps(_without_negative_zeros(value), sort_keys=True)


def _without_negative_zeros(value: object) -> object:
    if isinstance(value, float):
        return value + 0.0
    if isinstance(value, Mapping):
        return {key: _without_negative_zeros(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_negative_zeros(item) for item in value]
    return value


class StrictModel(BaseModel):
    """A frozen record that rejects unknown keys and wrong types."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        defer_build=True,  # most commands read few of the records
    )

    def hashed(self) -> dict[str, object]:
        """Return the content that identifies a run: without `added` fields at their default."""
        content = self.model_dump()
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            is_added = isinstance(extra, dict) and _ADDED in extra
            if is_added and getattr(self, name) == field.default:
                del content[name]
        return content


class Versioned(StrictModel):
    """The content of a JSON file."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="version of the file's form")
