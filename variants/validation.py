"""Checks of option values, which return {option: reason}, empty if valid, as `Variant.check`."""


def at_least_one(name: str, value: int) -> dict[str, str]:
    """Check that a count is positive."""
    return {} if value >= 1 else {name: f"{value}: must be at least 1"}


def divides(name: str, value: int, total_name: str, total: int) -> dict[str, str]:
    """Check that a count is positive and divides `total`, the value of `total_name`."""
    if value < 1 or total % value == 0:
        return at_least_one(name, value)
    allowed = ", ".join(str(n) for n in range(1, total + 1) if total % n == 0)
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
