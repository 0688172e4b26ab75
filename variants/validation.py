"""Checks of option values. Each returns {option: reason}, empty if the value is valid, as `Variant.check` does."""


def at_least_one(name: str, value: int) -> dict[str, str]:
    """Check that a count is positive."""
    return {} if value >= 1 else {name: f"{value}: must be at least 1"}


def divides(name: str, value: int, total_name: str, total: int) -> dict[str, str]:
    """Check that a count is positive and divides `total`, the value of `total_name`."""
    if value < 1 or total % value == 0:
        return at_least_one(name, value)
    allowed = ", ".join(str(n) for n in range(1, total + 1) if total % n == 0)
    return {name: f"{value} does not divide {total_name} = {total}; allowed: {allowed}"}
