"""Find the labels of each axis, in the order in which tables and figures show them."""

import re
from collections.abc import Collection, Iterable

from harness.results.records import VariantChoice
from harness.results.records.tuning import TUNING, UNTUNED
from harness.results.run_data import ABSENT, RunData

SettingKey = list[tuple[float, str]]


def is_context(axis: str, compare: Collection[str] | None) -> bool:
    """Return whether an axis is not asked about; `compare` are those that are, None for all."""
    return axis == TUNING or (compare is not None and axis not in compare)


def find_levels(
    runs: Iterable[RunData], baseline: dict[str, str], compare: tuple[str, ...] | None
) -> dict[str, tuple[str, ...]]:
    """Return the labels of each axis, by their settings and then by name.

    The baseline's label is the first, except on context axes that vary settings.
    """
    settings_by_axis: dict[str, dict[str, SettingKey]] = {
        axis: {} for run in runs for axis in run.labels
    }
    for run in runs:
        for axis, settings in settings_by_axis.items():
            choice = run.spec.axes.get(axis)
            settings.setdefault(choice.label if choice else ABSENT, _setting_key(choice))
    levels = {}
    for axis, settings in settings_by_axis.items():
        labels = sorted(settings, key=natural)
        labels.sort(key=settings.__getitem__)
        if axis == TUNING:
            labels.sort(key=UNTUNED.__ne__)
        elif not is_context(axis, compare) or not any(settings.values()):
            labels.sort(key=baseline.get(axis, "").__ne__)
        levels[axis] = tuple(labels)
    return levels


def _setting_key(choice: VariantChoice | None) -> SettingKey:
    """Return a sort key of the settings that a level states; empty for a variant."""
    key = []
    for name, value in choice.options.items() if choice else ():
        if "." in name:
            is_number = isinstance(value, int | float)
            key.append((float(value), "") if is_number else (0.0, str(value)))
    return key


def natural(text: str) -> list[tuple[int, str]]:
    """Return a sort key that sorts gqa2 before gqa10."""
    return [(int(digits or 0), other) for digits, other in re.findall(r"(\d+)|(\D+)", text)]
