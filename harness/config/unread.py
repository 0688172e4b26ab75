"""Find settings of [train] that an entry does not read, which would be ignored."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.config.entries import PlannedEntry
from harness.errors import Problem
from harness.results.records.tuning import TUNING
from harness.study.schema_errors import quoted
from variants import registry
from variants.base import AXES


def check_read(
    location: str, entries: Sequence[PlannedEntry], paths: Sequence[Path]
) -> Iterator[Problem]:
    """Each entry reads the settings that axes vary; without an effect its runs would be equal."""
    for entry in entries:
        for axis, level in entry.choices.items():
            if axis in AXES or axis == TUNING:
                continue
            reasons = [why_unread(entry, key, axis, paths) for key in level.options]
            if reasons and None not in reasons:  # of an axis that varies more, the others count
                message = f"{reasons[0]}, or exclude the combination"
                yield Problem(f"{location}: axes.{quoted(axis)}", message)


def why_unread(entry: PlannedEntry, key: str, axis: str, paths: Sequence[Path]) -> str | None:
    """Return why an entry does not read a setting that an axis varies; None if it may."""
    section, _, name = key.partition(".")
    if section != "train":
        return None
    optimizer = entry.choices["optimizer"]
    value = optimizer.options.get(name)
    if value is not None:
        return (
            f"the optimizer {optimizer.label} has {name} = {value} of its own, which {axis} does "
            "not change; remove the option"
        )
    if name in ("beta1", "beta2"):
        if not registry.load("optimizer", optimizer.name, paths).reads_betas:
            return f"the optimizer {optimizer.label} does not read {name}; use another optimizer"
    return None
