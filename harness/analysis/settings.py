"""The settings that entries share, and those that differ between entries."""

from harness.analysis.dataset import Entry, StudyResults
from harness.results.records import ResolvedData
from harness.results.records.study_summary import Scalar

SECTIONS = ("model", "data", "train")


def varied(study: StudyResults) -> dict[str, dict[str, Scalar]]:
    """Return the values of each setting, as a dotted key, that differs between entries.

    They are by the label of the axis that determines the setting, else by entry.
    """
    values_by_key: dict[str, dict[str, Scalar]] = {}
    for entry in study.entries:
        for key, value in resolved(entry).items():
            values_by_key.setdefault(key, {})[entry.label] = value
    found = {}
    for key, by_entry in values_by_key.items():
        if len({repr(value) for value in by_entry.values()}) > 1:
            found[key] = _by_label(study, by_entry)
    return found


def shared(study: StudyResults, differing: dict[str, dict[str, Scalar]]) -> dict[str, object]:
    """Return the settings that all entries share, by section."""
    sections: dict[str, object] = {}
    for section in SECTIONS if study.spec else ():
        values = getattr(study.spec, section).model_dump()
        sections[section] = {
            name: value for name, value in values.items() if f"{section}.{name}" not in differing
        }
    return sections


def texts(study: StudyResults) -> list[ResolvedData]:
    """Return the distinct texts that the entries read."""
    found: dict[tuple[str, str], ResolvedData] = {}
    for entry in study.entries:
        if not entry.runs[0].imported:
            data = entry.runs[0].resolved.data
            found.setdefault((data.sha256, data.tokenizer), data)
    return list(found.values())


def resolved(entry: Entry) -> dict[str, Scalar]:
    """Return the settings of an entry that have a single value, as dotted keys.

    Those of imported runs are unknown: there are none.
    """
    values: dict[str, Scalar] = {}
    if entry.runs[0].imported:
        return values
    for section in SECTIONS:
        for name, value in getattr(entry.runs[0].resolved, section):
            if value is None or isinstance(value, str | int | float | bool):
                values[f"{section}.{name}"] = value
    return values


def _by_label(study: StudyResults, by_entry: dict[str, Scalar]) -> dict[str, Scalar]:
    for axis in study.varying():
        by_label: dict[str, Scalar] = {}
        for entry in study.entries:
            value = by_entry[entry.label]
            if by_label.setdefault(entry.axes[axis], value) != value:
                break
        else:
            return {label: by_label[label] for label in study.levels[axis] if label in by_label}
    return by_entry
