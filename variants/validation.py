"""Types of options with an upper bound, and checks of option values.

A check returns {option: reason}, empty if valid, as `Variant.check`. The bounds of a type are
checked before. An option without such a type is finite and at most 2^31 - 1.
"""

import math
from typing import Annotated

from pydantic import Field

Width = Annotated[int, Field(le=2**20)]  # channels, heads, ranks
Length = Annotated[int, Field(le=2**20)]  # positions
Processes = Annotated[int, Field(le=1024)]
Megabytes = Annotated[int, Field(le=2**16)]
Wavelength = Annotated[float, Field(ge=1e-3)]  # below, the angles overflow


def divisors(number: int) -> list[int]:
    """Return all divisors of a positive number, ascending."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def at_least_one(name: str, value: int) -> dict[str, str]:
    """Check that a count is positive."""
    return {} if value >= 1 else {name: f"{value}: must be at least 1"}


def divides(name: str, value: int, total_name: str, total: int) -> dict[str, str]:
    """Check that a count is positive and divides `total`, the value of `total_name`."""
    if value < 1 or total % value == 0:
        return at_least_one(name, value)
    allowed = ", ".join(map(str, divisors(total)))
    return {name: f"{value} does not divide {total_name} = {total}; allowed: {allowed}"}


def one_for_each(name: str, value: int | list[int], count_name: str, count: int) -> dict[str, str]:
    """Check that a value is a positive number, or a list of `count` (`count_name`) of them."""
    if isinstance(value, int):
        return at_least_one(name, value)
    if len(value) != count:
        return {name: f"{len(value)} numbers for {count_name} = {count}: give one for each"}
    problems: dict[str, str] = {}
    for i, number in enumerate(value):
        problems |= at_least_one(f"{name}[{i}]", number)
    return problems
