"""Resolve the settings of each entry: the study's sections with the levels of its axes."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from harness.errors import choices
from harness.results.records import DataSettings, ModelSettings, TrainSettings
from harness.study import expressions
from harness.study.expressions import Expression, ExpressionError
from harness.study.schema_errors import describe_errors, shown

RawTable = dict[str, Any]  # of TOML
SectionT = TypeVar("SectionT", bound=BaseModel)

SECTIONS: Mapping[str, type[BaseModel]] = {
    "model": ModelSettings,
    "data": DataSettings,
    "train": TrainSettings,
}
# Where the names of expressions come from; `parameters` is the entry's own.
NAMED_SETTINGS = {
    "n_embd": "model.n_embd",
    "n_layer": "model.n_layer",
    "seq_len": "model.seq_len",
    "tokens_per_step": "train.tokens_per_step",
}
MODEL_NAMES = ("n_embd", "n_layer", "seq_len")  # expressions of [model]: it determines the others
# Counts of steps are rounded, to at least these; all other whole numbers must come out whole.
ROUNDED = {"train.steps": 1, "train.warmup_steps": 0, "train.eval_every": 1}
WHOLE = 1e-9  # relative deviation from a whole number by rounding errors


@dataclass(frozen=True)
class Change:
    """A value that replaces one of a section, and its key path in the study file."""

    value: object
    place: str


Changes = Mapping[str, Change]  # by dotted key


@dataclass(frozen=True)
class Settings:
    """The settings of an entry. `changes` are those that do not come from their section."""

    model: ModelSettings
    data: DataSettings
    train: TrainSettings
    changes: Changes

    @cached_property
    def key(self) -> str:
        """A key that is equal for equal settings."""
        parts = (self.model, self.data, self.train)
        return "\n".join(part.model_dump_json() for part in parts)

    def place(self, *keys: str) -> str:
        """Return where the first of these keys that a section does not set is set."""
        return place_of(self.changes, *keys)

    def value(self, key: str) -> object:
        """Return the value of a dotted key."""
        section, _, name = key.partition(".")
        return getattr(getattr(self, section), name)


def place_of(changes: Changes, *keys: str) -> str:
    """Return where the first of these keys that is changed is set, else the first key."""
    for key in keys:
        if key in changes:
            return changes[key].place
    return keys[0]


class SettingsError(Exception):
    """Settings are invalid; `problems` are key paths in the study file and messages."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__(problems)
        self.problems = problems


def setting_keys() -> list[str]:
    """Return the dotted keys of all settings that an axis may vary."""
    return [f"{name}.{key}" for name, model in SECTIONS.items() for key in model.model_fields]


def unknown_setting(key: str) -> str:
    """Return the message on an unknown dotted key, with the nearest setting."""
    section, _, _ = key.partition(".")
    keys = [known for known in setting_keys() if known.startswith(f"{section}.")]
    return f"no such setting; {choices(key, keys or setting_keys())}"


def section_problems(name: str, table: RawTable, varied: set[str]) -> Iterator[tuple[str, str]]:
    """Yield key paths within a section and messages, without the keys that an axis varies."""
    ignored = {key.partition(".")[2] for key in varied if key.startswith(f"{name}.")}
    for key, value in table.items():
        try:
            if find_expression(f"{name}.{key}", value) is not None:
                ignored.add(key)
        except ExpressionError as error:
            ignored.add(key)
            yield key, f"{shown(value)}: {error}"
    for key, message in _errors(name, table):
        if _first(key) not in ignored:
            yield key, message


def value_problems(key: str, value: object) -> Iterator[str]:
    """Yield why the value of a dotted key is invalid, whatever the other settings are."""
    section, _, name = key.partition(".")
    try:
        if find_expression(key, value) is not None:
            return
    except ExpressionError as error:
        yield f"{shown(value)}: {error}"
        return
    for path, message in _errors(section, {name: value}):
        if _first(path) == name:
            yield message


def find_expression(key: str, value: object) -> Expression | None:
    """Return the expression that a value states, None if it is a plain value.

    Raises:
        ExpressionError: it is a text for a number, and no valid expression.
    """
    if not isinstance(value, str) or key not in setting_keys():
        return None
    section, _, name = key.partition(".")
    annotation = SECTIONS[section].model_fields[name].annotation
    if section == "data" or not _is_numeric(annotation) or value in _literals(annotation):
        return None
    if expressions.is_number(value):
        return None  # a number in quotes has the wrong type
    expression = expressions.parse(value)
    others = sorted(expression.names.difference(MODEL_NAMES))
    if section == "model" and others:
        raise ExpressionError(
            f"{', '.join(others)} would depend on itself, as it follows from [model]; allowed "
            f"here: {', '.join(MODEL_NAMES)}"
        )
    return expression


def resolve(
    section: type[SectionT],
    sections: Mapping[str, RawTable],
    changes: Changes,
    count_parameters: Callable[[], int] | None = None,
) -> SectionT:
    """Return a section with these changes.

    `count_parameters` is called if an expression of [train] needs it.

    Raises:
        SettingsError: it is invalid.
    """
    return _Resolution(sections, changes, count_parameters).section(section)


class _Resolution:
    """The values of one entry's settings; each expression is evaluated once."""

    def __init__(
        self,
        sections: Mapping[str, RawTable],
        changes: Changes,
        count_parameters: Callable[[], int] | None = None,
    ) -> None:
        self._sections = sections
        self._changes = changes
        self._count_parameters = count_parameters
        self._values: dict[str, object] = {}
        self._active: list[str] = []  # keys whose expressions are being evaluated

    def section(self, model: type[SectionT]) -> SectionT:
        """Return a section with the values of its expressions."""
        name = next(name for name, section in SECTIONS.items() if section is model)
        table: RawTable = {}
        problems = []
        changed = [key for key in self._changes if key.startswith(f"{name}.")]
        for key in [f"{name}.{key}" for key in self._sections[name]] + changed:
            try:
                table[key.partition(".")[2]] = self._value(key)
            except ExpressionError as error:
                problems.append(
                    (place_of(self._changes, key), f"{shown(self._stated(key))}: {error}")
                )
        invalid = {place for place, _ in problems}
        for path, message in _errors(name, table):
            first = _first(path)
            place = place_of(self._changes, f"{name}.{first}") + path.removeprefix(first)
            if place not in invalid:
                problems.append((place, self._with_source(f"{name}.{first}", message)))
        if problems:
            raise SettingsError(list(dict.fromkeys(problems)))
        return model.model_validate(table)

    def _stated(self, key: str) -> object:
        if key in self._changes:
            return self._changes[key].value
        section, _, name = key.partition(".")
        return self._sections[section].get(name)

    def _with_source(self, key: str, message: str) -> str:
        """Add the expression to the message on its value."""
        stated = self._stated(key)
        is_computed = key in self._values and stated != self._values[key]
        return f"{shown(stated)} gives {message}" if is_computed else message

    def _value(self, key: str) -> object:
        """Return the value of a key.

        Raises:
            ExpressionError: it has none, or depends on itself.
        """
        if key not in self._values:
            stated = self._stated(key)
            expression = find_expression(key, stated)
            if expression is None:
                return stated
            if key in self._active:
                cycle = " -> ".join([*self._active[self._active.index(key) :], key])
                raise ExpressionError(f"depends on itself: {cycle}")
            self._active.append(key)
            try:
                names = {name: self._named(name) for name in expression.names}
            finally:
                self._active.pop()
            self._values[key] = as_setting(key, expression.evaluate(names))
        return self._values[key]

    def _named(self, name: str) -> float:
        """Return the value of a name in an expression."""
        if name == "parameters":
            assert self._count_parameters is not None  # only [train] may use it
            return self._count_parameters()
        value = self._value(NAMED_SETTINGS[name])
        if isinstance(value, bool) or not isinstance(value, int):
            raise ExpressionError(f"{NAMED_SETTINGS[name]} is not valid")
        return value


def as_setting(key: str, value: float) -> int | float:
    """Return the value of an expression as its setting needs it: whole numbers for counts.

    Raises:
        ExpressionError: a whole number is needed, and the value is none.
    """
    section, _, name = key.partition(".")
    nearest = round(value)
    if key in ROUNDED:
        return max(ROUNDED[key], nearest) if value > 0 else nearest
    if _has_type(SECTIONS[section].model_fields[name].annotation, float):
        return value
    if abs(value - nearest) > WHOLE * max(1.0, abs(value)):
        raise ExpressionError(
            f"gives {value:g}, which is not a whole number; the nearest are "
            f"{math.floor(value)} and {math.ceil(value)}"
        )
    return nearest


def _errors(section: str, table: RawTable) -> list[tuple[str, str]]:
    """Return the key paths and messages of a section's errors."""
    try:
        SECTIONS[section].model_validate(table)
    except ValidationError as error:
        return describe_errors(error, SECTIONS[section])
    return []


def _first(path: str) -> str:
    """Return the first key of a key path."""
    return path.partition(".")[0].partition("[")[0]


def _alternatives(annotation: Any) -> Iterator[Any]:
    """Yield the types that a value may have."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for alternative in get_args(annotation):
            yield from _alternatives(alternative)
    else:
        yield annotation


def _has_type(annotation: Any, wanted: type) -> bool:
    return any(alternative is wanted for alternative in _alternatives(annotation))


def _is_numeric(annotation: Any) -> bool:
    return _has_type(annotation, int) or _has_type(annotation, float)


def _literals(annotation: Any) -> set[object]:
    """Return the values of the literals that a value may be."""
    values: set[object] = set()
    for alternative in _alternatives(annotation):
        if get_origin(alternative) is Literal:
            values.update(get_args(alternative))
    return values
