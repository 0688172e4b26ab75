"""Read the levels of an axis that varies settings.

Such an axis is one setting, `"train.lr" = [1e-3, 3e-3]`, or a named one, whose levels are tables
of settings: `size = [{ label = "S", "model.n_layer" = 3, "model.n_embd" = 128 }, ...]`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath

from harness.results.records import VariantChoice
from harness.study.axis_names import AXES
from harness.study.names import LABEL, LABEL_FORM, default_label, default_title
from harness.study.schema_errors import shown
from harness.study.settings import (
    SECTIONS,
    RawTable,
    setting_keys,
    unknown_setting,
    value_problems,
)
from harness.study.study_file import Element

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
# Keys that hold something else in rules, levels and columns of tables.
RESERVED = {"reason", "variant", "label", "value", "seeds", "tuning", "world_size"}

CORPUS = "data.corpus"  # may be a path: its label has the name of the file only

Problems = list[tuple[str, str]]  # keys within an element, "" for the whole, and messages


def is_setting_axis(axis: str, elements: Sequence[Element]) -> bool:
    """Return whether an axis of a study varies settings: by its name, or by its levels."""
    if axis in AXES:
        return False
    return "." in axis or any(_settings(element) for element in elements)


def axis_problem(axis: str) -> str | None:
    """Return why an axis of settings cannot have this name, None if it can."""
    if "." in axis:
        return None if axis in setting_keys() else unknown_setting(axis)
    if not NAME.fullmatch(axis):
        return "no name for an axis; allowed: a letter, and up to 39 letters, digits and _"
    if axis in _reserved_names():
        return "the name of a key or of a table's column; use another, e.g. size"
    return None


def _reserved_names() -> set[str]:
    """Return the names that an axis cannot have: its labels are a column of the tables."""
    from harness.results import frames  # pandas is slow to load
    from harness.results.records import entries

    columns = [
        *frames.KEY_COLUMNS,
        *frames.RUN_COLUMNS,
        *frames.STEP_COLUMNS,
        *frames.EVAL_COLUMNS,
        *frames.EXAMPLE_COLUMNS,
    ]
    names = {column.name for column in columns}
    for record in (entries.EntryMetrics, entries.RunOutcome):
        names.update(record.model_fields)
    return names | RESERVED | SECTIONS.keys()


def read_level(axis: str, element: Element) -> tuple[VariantChoice | None, Problems]:
    """Return the level that an element describes, None if it is invalid, and its problems."""
    if "." in axis:
        return _read_value(axis, element)
    return _read_table(axis, element)


def _read_value(axis: str, element: Element) -> tuple[VariantChoice | None, Problems]:
    """Read a level of an axis of one setting: a value, or { value = ..., label = ... }."""
    label: object = None
    value: object = element
    key = ""
    if isinstance(element, dict):
        key = ".value"
        if "value" not in element or element.keys() - {"value", "label"}:
            form = "must be a value, or a table of `value` and `label`"
            return None, [("", f"{shown(element)}: {form}")]
        value = element["value"]
        label = element.get("label")
    problems = _label_problems(label)
    problems += [(key, message) for message in value_problems(axis, value)]
    if problems:
        return None, problems
    name = axis.partition(".")[2]
    shown_value = PurePath(value).name if axis == CORPUS and isinstance(value, str) else value
    options: dict[str, object] = {axis: value}
    if label:
        return _level(axis, label, options), []
    title = default_title(f"{name} {{{name}}}", name, {name: shown_value}, ())
    return _level(axis, default_label(name, {name: shown_value}), options, title), []


def _read_table(axis: str, element: Element) -> tuple[VariantChoice | None, Problems]:
    """Read a level of a named axis: a table of a label and settings."""
    settings = _settings(element)
    if not isinstance(element, dict) or not settings:
        form = 'must be a table of settings, e.g. { label = "S", "model.n_layer" = 3 }'
        return None, [("", f"{shown(element)}: {form}")]
    problems: Problems = []
    if "label" not in element:
        problems.append(("", "has no `label`, which names the level in tables and files"))
    else:
        problems += _label_problems(element["label"])
    for key, value in element.items():
        if key in setting_keys():
            problems += [(f".{key}", message) for message in value_problems(key, value)]
        elif key != "label":
            problems.append((f".{key}", unknown_setting(key)))
    if problems:
        return None, problems
    return _level(axis, element["label"], settings), []


def _settings(element: Element) -> dict[str, object]:
    """Return the settings of an element: its dotted keys."""
    if not isinstance(element, dict):
        return {}
    return {key: value for key, value in element.items() if "." in key}


def _label_problems(label: object) -> Problems:
    if label is None or (isinstance(label, str) and LABEL.fullmatch(label)):
        return []
    return [(".label", f"{shown(label)}: {LABEL_FORM}")]


def _level(axis: str, label: object, options: dict[str, object], title: str = "") -> VariantChoice:
    return VariantChoice(name=axis, label=str(label), options=options, title=title or str(label))


def matches(level: VariantChoice, name: object) -> bool:
    """Return whether a name, of a rule or of the command line, is a level's label or value."""
    if name == level.label:
        return True
    values = list(level.options.values())
    if len(values) != 1 or level.name not in level.options:
        return False
    return _same_value(values[0], name)


def _same_value(value: object, name: object) -> bool:
    if isinstance(value, bool) or isinstance(name, bool):
        return value is name or (isinstance(name, str) and str(value).lower() == name.lower())
    if isinstance(value, int | float) and isinstance(name, str):
        try:
            return float(name) == value
        except ValueError:
            return False
    return value == name


def structure_problems(
    levels: Mapping[str, Sequence[VariantChoice]],
) -> Iterator[tuple[str, str]]:
    """Yield axes and messages: one level, levels of different keys, a key of two axes."""
    owners: dict[str, str] = {}
    for axis, choices in levels.items():
        if len(choices) == 1:
            yield axis, "has one level; an axis of settings has at least two. Set it in its section"
        keys = [set(choice.options) for choice in choices]
        for choice, present in zip(choices, keys, strict=True):
            missing = set().union(*keys) - present
            if missing:
                listed = ", ".join(sorted(missing))
                yield axis, f"the level {choice.label} does not set {listed}, and other levels do"
        for key in sorted(set().union(*keys)):
            if key in owners:
                yield axis, f"varies {key}, which the axis {owners[key]} varies too"
            owners.setdefault(key, axis)


def unchanged(
    levels: Sequence[VariantChoice], sections: Mapping[str, RawTable]
) -> list[VariantChoice]:
    """Return the levels whose settings equal those of the study's sections, with their defaults."""
    kept = []
    for level in levels:
        values = []
        for key in level.options:
            section, _, name = key.partition(".")
            default = SECTIONS[section].model_fields[name].default
            values.append(sections[section].get(name, default))
        if values == list(level.options.values()):
            kept.append(level)
    return kept


def label_problem(label: str, other: str) -> str | None:
    """Return why two choices cannot have these labels, None if they can."""
    if label == other:
        return f"two different choices are labelled '{label}'; give one a `label`"
    if label.casefold() == other.casefold():
        return (
            f"the labels '{other}' and '{label}' differ in case only, which some file systems "
            "ignore; give one another `label`"
        )
    return None


def addition_problems(level: VariantChoice, levels: Sequence[VariantChoice]) -> Iterator[str]:
    """Yield why a level, which a rule adds to an axis, does not fit to its levels."""
    for other in levels:
        if level.options != other.options or level.label != other.label:
            problem = label_problem(level.label, other.label)
            if problem:
                yield problem
    missing = set(levels[0].options) ^ set(level.options) if levels else set()
    if missing:
        listed = ", ".join(sorted(missing))
        yield f"the level {level.label} and the axis's other levels do not set the same: {listed}"
