"""Estimates with 95 % intervals. A number that is not finite is null in a file, and read as NaN."""

import math
from typing import Annotated

from pydantic import BeforeValidator, Field, Strict

from harness.results.records.base import StrictModel


def _null_as_nan(value: object) -> object:
    return math.nan if value is None else value


Number = Annotated[float, BeforeValidator(_null_as_nan)]
Bounds = Annotated[tuple[Number, Number], Strict(False)]  # a list in a file
CountBounds = Annotated[tuple[int | None, int | None], Strict(False)]  # None: beyond any stated


class Mean(StrictModel):
    """The mean over seeds."""

    mean: Number = Field(description="mean")
    ci95: Bounds | None = Field(description="t interval; null for a single seed")
    n: int = Field(description="number of seeds")


class Difference(Mean):
    """A mean difference that is tested, with the interval that agrees with its verdict."""

    ci95: Bounds | None = Field(
        description="interval that is simultaneous over the family of tests, and open: one that "
        "ends at 0 excludes it; null for a single seed without paired examples, without a test, or "
        "if seeds are lost"
    )


class Median(StrictModel):
    """A time or a speed: the geometric mean over seeds of the median of each seed's samples."""

    median: Number = Field(description="geometric mean of the seeds' medians")
    ci95: Bounds | None = Field(
        description="t interval of the logarithms over seeds; null for a single seed"
    )


class Ratio(StrictModel):
    """The geometric mean over seeds of the ratio of two medians.

    Seeds that both sides have are paired. Without a common seed it is the ratio of the two sides'
    geometric means, with Welch's t interval.
    """

    ratio: Number = Field(description="ratio")
    ci95: Bounds | None = Field(
        description="t interval of the logarithms over seeds; null for a single seed"
    )
