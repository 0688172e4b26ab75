"""From the elements of an axis to checked choices: which variant, with which options, under which label."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ValidationError, create_model

from harness.config.study_file import Element, Rule, describe
from harness.errors import Problem, UserError, choices
from harness.results.records import StrictModel, VariantChoice
from variants import registry
from variants.base import AXES, ModelShape

Entry = dict[str, VariantChoice]  # the choice on each axis, in the order of AXES
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+]{0,39}")


@dataclasses.dataclass
class Axes:
    """What a study chooses on each axis; `problems` gathers what is wrong with it, all of it."""

    place: str
    shape: ModelShape
    paths: Sequence[Path]
    problems: list[Problem] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.on: dict[str, list[VariantChoice]] = {}

    def complain(self, key: str, message: str) -> None:
        """Add a problem at a key path of the study file."""
        self.problems.append(Problem(f"{self.place}: {key}", message))

    def read(self, axes: dict[str, list[Element]]) -> None:
        """Choose on every axis; one that the study leaves out gets GPT-2's own variant."""
        for axis in axes.keys() - AXES.keys():
            self.complain(f"axes.{axis}", f"no such axis; {choices(axis, AXES)}")
        for axis, about in AXES.items():
            elements = axes.get(axis, [about.default])
            found = [
                self.choose(axis, element, f"axes.{axis}[{i}]")
                for i, element in enumerate(elements)
            ]
            named = [isinstance(element, dict) and "label" in element for element in elements]
            self.on[axis] = self._distinct(
                axis, [(c, own) for c, own in zip(found, named, strict=True) if c is not None]
            )

    def _distinct(self, axis: str, found: list[tuple[VariantChoice, bool]]) -> list[VariantChoice]:
        """Collapse what is the same, unless it was given a label of its own; refuse one label for two things.

        The same under two labels is how a study asks what its own noise is (an A/A test).
        """
        kept: list[VariantChoice] = []
        for choice, has_own_label in found:
            alike = [other for other in kept if same(choice, other)]
            if any(not has_own_label or choice.label == other.label for other in alike):
                continue
            if any(choice.label == other.label for other in kept):
                self.complain(
                    f"axes.{axis}",
                    f"two different choices are labelled '{choice.label}'; give one a `label`",
                )
            kept.append(choice)
        return kept

    def choose(self, axis: str, element: Element, key: str) -> VariantChoice | None:
        """Return the choice that an element states, or None where it states a problem."""
        try:
            return self._choose(axis, element, key)
        except UserError as error:
            self.problems += error.problems
            return None

    def _choose(self, axis: str, element: Element, key: str) -> VariantChoice:
        def problem(key: str, message: str) -> Problem:
            return Problem(f"{self.place}: {key}", message)

        table = {"variant": element} if isinstance(element, str) else dict(element)
        name, label = table.pop("variant", None), table.pop("label", None)
        available = registry.files(axis, self.paths)
        if not isinstance(name, str):
            form = f'must be a name or a table with `variant = "NAME"`; allowed: {", ".join(available)}'
            raise UserError([problem(key, form)])
        if name not in available:
            raise UserError(
                [problem(key, f"'{name}': no such {axis} variant; {choices(name, available)}")]
            )
        if label is not None and not (isinstance(label, str) and LABEL.fullmatch(label)):
            form = "must be up to 40 letters, digits and any of . _ +"
            raise UserError([problem(f"{key}.label", f"{label!r}: {form}")])
        try:
            cls = registry.load(axis, name, self.paths)
            model = _options_model(cls.Options)
            options = model.model_validate(table).model_dump()
        except registry.VariantError as error:
            raise UserError([problem(key, str(error))]) from error
        except ValidationError as error:
            told = describe(error, model)
            raise UserError(
                [problem(f"{key}.{field}", message) for field, message in told]
            ) from error
        wrong = cls.check(self.shape, cls.Options(**options))
        if wrong:
            raise UserError(
                [
                    problem(f"{key}.{field}" if field else key, message)
                    for field, message in wrong.items()
                ]
            )
        return VariantChoice(
            name=name,
            label=label
            or _label(name, {name: value for name, value in options.items() if name in table}),
            options=options,
            source_sha256=registry.source_sha256(axis, name, self.paths),
        )

    def named(self, axis: str, name: str) -> list[VariantChoice]:
        """Return the choices of an axis whose label or variant is `name`."""
        return [choice for choice in self.on[axis] if name in (choice.label, choice.name)]

    def baseline(self, stated: dict[str, str]) -> dict[str, VariantChoice]:
        """Return the choice on each axis that the others are compared with: as stated, else GPT-2's, else the first."""
        result = {}
        for axis in stated.keys() - AXES.keys():
            self.complain(f"study.baseline.{axis}", f"no such axis; {choices(axis, AXES)}")
        for axis, about in AXES.items():
            if axis in stated and not self.named(axis, stated[axis]):
                self.complain(f"study.baseline.{axis}", self._no_match(axis, stated[axis]))
            found = self.named(axis, stated.get(axis, about.default)) or self.on[axis]
            if found:
                result[axis] = found[0]
        return result

    def rule(self, rule: Rule, key: str) -> dict[str, list[VariantChoice]]:
        """Return which choices of each axis an `exclude` rule names; an axis that it leaves out is not restricted."""
        result = {}
        for axis, names in rule.items():
            if axis not in AXES:
                self.complain(f"{key}.{axis}", f"no such axis; {choices(axis, [*AXES, 'reason'])}")
                continue
            names = names if isinstance(names, list) else [names]
            for name in names:
                if not isinstance(name, str) or not self.named(axis, name):
                    self.complain(f"{key}.{axis}", self._no_match(axis, name))
            result[axis] = [
                choice
                for choice in self.on[axis]
                if {choice.label, choice.name} & set(map(str, names))
            ]
        return result

    def _no_match(self, axis: str, name: Any) -> str:
        return f"{name!r} matches nothing; {choices(str(name), [choice.label for choice in self.on[axis]])}"

    def select(self, conditions: Sequence[str]) -> dict[str, list[VariantChoice]]:
        """Return what `AXIS=NAME` conditions of the command line leave of each axis.

        Raises:
            UserError: no such axis, or nothing on it has that label or is that variant.
        """
        kept: dict[str, list[VariantChoice]] = {}
        for condition in conditions:
            axis, equals, names = condition.partition("=")
            if not equals or axis not in AXES:
                raise UserError(f"--where {condition}: must be AXIS=NAME; {choices(axis, AXES)}")
            for name in names.split(","):
                if not self.named(axis, name):
                    raise UserError(f"--where {condition}: {self._no_match(axis, name)}")
                kept.setdefault(axis, []).extend(self.named(axis, name))
        return kept


def architecture(entry: Mapping[str, VariantChoice]) -> str:
    """Return what tells an entry's model from others: all but labels and how it is spread over processes."""
    return str(
        [
            (axis, choice.name, choice.options)
            for axis, choice in entry.items()
            if axis != "parallelism"
        ]
    )


def same(one: VariantChoice, other: VariantChoice) -> bool:
    """Tell whether two choices differ in nothing but their label."""
    return (one.name, one.options) == (other.name, other.options)


@cache
def _options_model(options: type) -> type[StrictModel]:
    types = get_type_hints(options)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        default = ... if field.default is dataclasses.MISSING else field.default
        fields[field.name] = (types[field.name], default)
    return create_model(options.__qualname__, __base__=StrictModel, **fields)


def _label(name: str, given: dict[str, Any]) -> str:
    """Return a readable name: gqa2, or, with several options, rope_theta5000_fraction0.5."""
    values = {name: _text(value) for name, value in given.items()}
    parts = (
        list(values.values())
        if len(values) == 1
        else [f"_{name}{value}" for name, value in values.items()]
    )
    return re.sub(r"[^A-Za-z0-9._+]", "", name + "".join(parts).replace("-", "m"))


def _text(value: Any) -> str:
    """Return an option's value as a part of a name: a list's numbers stay apart, 4.8.16."""
    if isinstance(value, list):
        return ".".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
