"""Titles of levels and entries: what people read in place of labels, which name files."""

from collections import Counter
from collections.abc import Iterable, Mapping

from harness.results.records.run_spec import RunKeys

SEPARATOR = " · "  # of the levels in the title of an entry

Titles = Mapping[str, str]  # by label


def distinct(titles: Titles) -> dict[str, str]:
    """Return the titles by label; labels, which are distinct, replace those that are not."""
    found = {label: title or label for label, title in titles.items()}
    counts = Counter(found.values())
    found = {label: title if counts[title] == 1 else label for label, title in found.items()}
    return found if len(set(found.values())) == len(found) else {label: label for label in found}


def of_levels(levels: Mapping[str, str], titles: Mapping[str, Titles]) -> str:
    """Return the joined titles of the labels on some axes."""
    return SEPARATOR.join(titles.get(axis, {}).get(label, label) for axis, label in levels.items())


def of_entries(
    entries: Mapping[str, Mapping[str, str]], titles: Mapping[str, Titles]
) -> dict[str, str]:
    """Return a distinct title for each entry, given its label on each axis.

    It has the axes on which entries differ. The title of a single entry has the axes that its label
    has.
    """
    varying = _varying(entries.values())
    found = {}
    for entry, levels in entries.items():
        if varying:
            kept = {axis: levels[axis] for axis in varying if axis in levels}
        else:
            named = entry.split("-")
            kept = {axis: label for axis, label in levels.items() if label in named}
        found[entry] = of_levels(kept, titles) or entry
    counts = Counter(found.values())
    clear = {
        entry: title if counts[title] == 1 else f"{title} ({entry})"
        for entry, title in found.items()
    }
    return distinct(clear)


def of_runs(specs: Iterable[RunKeys]) -> dict[str, str]:
    """Return the distinct title of the entry of each run, by the entry's label."""
    entries: dict[str, dict[str, str]] = {}
    titles: dict[str, dict[str, str]] = {}
    for spec in specs:
        entries[spec.entry] = spec.labels
        for axis, choice in spec.axes.items():
            titles.setdefault(axis, {})[choice.label] = choice.title
    return of_entries(entries, {axis: distinct(found) for axis, found in titles.items()})


def _varying(entries: Iterable[Mapping[str, str]]) -> list[str]:
    """Return the axes on which entries have different labels, or which only some have."""
    labels: dict[str, set[str | None]] = {}
    rows = list(entries)
    for axis in dict.fromkeys(axis for levels in rows for axis in levels):
        labels[axis] = {levels.get(axis) for levels in rows}
    return [axis for axis, found in labels.items() if len(found) > 1]
