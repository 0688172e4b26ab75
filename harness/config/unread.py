"""Find settings of [train] that an entry does not read, which would be ignored."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.config.entries import PlannedEntry
from harness.errors import Problem
from harness.results.records import TrainSettings
from variants import registry

DECAY_FRACTION = "train.decay_fraction"


def check_read(
    location: str, entries: Sequence[PlannedEntry], paths: Sequence[Path]
) -> Iterator[Problem]:
    """Each entry reads the settings that axes vary; without an effect its runs would be equal."""
    for entry in entries:
        for axis in entry.choices:
            reason = why_unread(entry, axis, paths)
            if reason is not None:
                yield Problem(f'{location}: axes."{axis}"', f"{reason}, or exclude the combination")
    yield from _check_decay_fraction(location, entries)


def why_unread(entry: PlannedEntry, key: str, paths: Sequence[Path]) -> str | None:
    """Return why an entry does not read a setting of [train], with a remedy; None if it does."""
    section, _, name = key.partition(".")
    if section != "train":
        return None
    optimizer = entry.choices["optimizer"]
    value = optimizer.options.get(name)
    if value is not None:
        return (
            f"the optimizer {optimizer.label} has {name} = {value} of its own, which {key} does "
            "not change; remove the option"
        )
    if name in ("beta1", "beta2"):
        if not registry.load("optimizer", optimizer.name, paths).reads_betas:
            return f"the optimizer {optimizer.label} does not read {name}; use another optimizer"
    schedule = entry.settings.train.schedule
    if name == "decay_fraction" and schedule != "wsd":
        return f"the schedule {schedule} does not read {name}; use wsd"
    return None


def _check_decay_fraction(location: str, entries: Sequence[PlannedEntry]) -> Iterator[Problem]:
    """`decay_fraction` is stated only in a study with the schedule that reads it."""
    default = TrainSettings.model_fields["decay_fraction"].default
    if any(entry.settings.train.schedule == "wsd" for entry in entries):
        return
    for entry in entries:
        fraction = entry.settings.train.decay_fraction
        if fraction != default and DECAY_FRACTION not in entry.choices:
            yield Problem(
                f"{location}: {entry.settings.place(DECAY_FRACTION)}",
                f'{fraction:g}: only the schedule wsd reads it; set train.schedule = "wsd", or '
                "remove it",
            )
            return
