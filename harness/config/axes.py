"""Read the axes of a study: the variants on each, with their options and labels."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError

from harness.config import variant_check
from harness.config.names import LABEL, default_label
from harness.config.study_file import Element, Rule, describe_errors
from harness.errors import Problem, UserError, choices
from harness.results.records import StrictModel, VariantChoice
from variants import registry
from variants.base import AXES, ModelShape, is_part
from variants.errors import VariantError, class_line

VariantSelection = dict[str, VariantChoice]  # one choice for each axis, in the order of AXES

MAX_NUMBER = 2**31 - 1  # of options; larger ones overflow somewhere in PyTorch


@dataclasses.dataclass
class Axes:
    """The choices on each axis of a study. `problems` collects all that is invalid.

    `location` is the study file, `shape` the shape that options are checked against, and `paths`
    the user's folders of variants.
    """

    location: str
    shape: ModelShape
    paths: Sequence[Path]
    problems: list[Problem] = dataclasses.field(default_factory=list)
    choices: dict[str, list[VariantChoice]] = dataclasses.field(default_factory=dict)
    _invalid: set[tuple[str, str]] = dataclasses.field(default_factory=set)  # axis, name or label

    def add_problem(self, key: str, message: str) -> None:
        """Add a problem at a key path of the study file."""
        self.problems.append(Problem(f"{self.location}: {key}", message))

    def read(self, axes: Mapping[str, Sequence[Element]]) -> None:
        """Read the choices of every axis; an axis that is left out gets GPT-2's variant."""
        for axis in axes.keys() - AXES.keys():
            self.add_problem(f"axes.{axis}", f"no such axis; {choices(axis, AXES)}")
        for axis, about in AXES.items():
            self.choices[axis] = self._read_axis(axis, axes.get(axis, [about.default]))

    def _read_axis(self, axis: str, elements: Sequence[Element]) -> list[VariantChoice]:
        """Read an axis without its duplicates.

        A duplicate with its own label is kept: two entries that are the same measure the noise (an
        A/A test). Different choices with one label are a problem.
        """
        kept: list[VariantChoice] = []
        for i, element in enumerate(elements):
            choice = self.choose(axis, element, f"axes.{axis}[{i}]")
            if choice is None:
                self._add_invalid(axis, element)
                continue
            has_own_label = isinstance(element, dict) and "label" in element
            duplicates = [other for other in kept if same_variant(choice, other)]
            if any(not has_own_label or other.label == choice.label for other in duplicates):
                continue
            for other in kept:
                problem = _label_problem(choice.label, other.label)
                if problem:
                    self.add_problem(f"axes.{axis}", problem)
            kept.append(choice)
        return kept

    @property
    def has_invalid(self) -> bool:
        """Whether an axis lacks a choice of the study because it is invalid."""
        return bool(self._invalid)

    def _add_invalid(self, axis: str, element: Element) -> None:
        """Remember the names of an invalid choice, which rules may refer to."""
        names = (element,) if isinstance(element, str) else map(element.get, ("variant", "label"))
        self._invalid.update((axis, name) for name in names if isinstance(name, str))

    def choose(self, axis: str, element: Element, key: str) -> VariantChoice | None:
        """Return the choice that an element describes, or None if it is invalid."""
        try:
            return self._choose(axis, element, key)
        except UserError as error:
            self.problems += error.problems
            return None

    def _choose(self, axis: str, element: Element, key: str) -> VariantChoice:
        given = {"variant": element} if isinstance(element, str) else dict(element)
        name = self._variant_name(axis, given.pop("variant", None), key)
        label = given.pop("label", None)
        if label is not None and not (isinstance(label, str) and LABEL.fullmatch(label)):
            form = "must be up to 40 letters, digits and any of . _ +"
            raise self._error(f"{key}.label", f"{label!r}: {form}")
        options = self._options(axis, name, given, key)
        given_options = {option: options[option] for option in options if option in given}
        return VariantChoice(
            name=name,
            label=label or default_label(name, given_options),
            options=options,
        )

    def _variant_name(self, axis: str, name: object, key: str) -> str:
        available = registry.files(axis, self.paths)
        if not isinstance(name, str):
            form = 'must be a name or a table with `variant = "NAME"`'
            raise self._error(key, f"{form}; allowed: {', '.join(available)}")
        if name not in available:
            raise self._error(key, f"'{name}': no such {axis} variant; {choices(name, available)}")
        return name

    def _options(self, axis: str, name: str, given: dict[str, Any], key: str) -> dict[str, Any]:
        """Validate the given options of a variant; return all of its options.

        Raises:
            UserError: the variant's file or the options are invalid, or it cannot be built.
        """
        try:
            cls = registry.load(axis, name, self.paths)
            model = _options_model(cls.Options)
        except VariantError as error:
            raise UserError(self._problem(key, problem) for problem in error.problems) from error
        try:
            options = model.model_validate(given).model_dump()
        except ValidationError as error:
            problems = [
                self._problem(f"{key}.{option}" if option else key, message)
                for option, message in describe_errors(error, model)
            ]
            raise UserError(problems) from error
        problems = [
            self._problem(f"{key}.{option}" if option else key, message)
            for option, message in variant_check.option_problems(axis, cls, options, self.shape)
        ]
        if problems:
            raise UserError(problems)
        return options

    def _problem(self, key: str, message: str) -> Problem:
        return Problem(f"{self.location}: {key}", message)

    def _error(self, key: str, message: str) -> UserError:
        return UserError([self._problem(key, message)])

    def matching(self, axis: str, name: str) -> list[VariantChoice]:
        """Return the choices of an axis whose label or variant is `name`."""
        return [choice for choice in self.choices[axis] if name in (choice.label, choice.name)]

    def baseline(self, stated: Mapping[str, str]) -> VariantSelection:
        """Return the baseline's choice on each axis: as stated, else GPT-2's, else the first."""
        for axis in stated.keys() - AXES.keys():
            self.add_problem(f"study.baseline.{axis}", f"no such axis; {choices(axis, AXES)}")
        baseline = {}
        for axis, about in AXES.items():
            if axis in stated and not self._is_known(axis, stated[axis]):
                self.add_problem(f"study.baseline.{axis}", self._no_match(axis, stated[axis]))
            name = stated.get(axis, about.default)
            candidates = self.matching(axis, name) or self.choices[axis]
            if candidates:
                baseline[axis] = candidates[0]
        return baseline

    def resolve_rule(self, rule: Rule, key: str) -> dict[str, list[VariantChoice]]:
        """Return the choices that an `exclude` rule names, for each axis that it names."""
        resolved = {}
        for axis, names in rule.items():
            if axis not in AXES:
                message = f"no such axis; {choices(axis, [*AXES, 'reason'])}"
                self.add_problem(f"{key}.{axis}", message)
                continue
            resolved[axis] = self._resolve(axis, names, f"{key}.{axis}")
        return resolved

    def _resolve(self, axis: str, names: object, key: str) -> list[VariantChoice]:
        listed = names if isinstance(names, list) else [names]
        for name in listed:
            if not isinstance(name, str) or not self._is_known(axis, name):
                self.add_problem(key, self._no_match(axis, name))
        wanted = set(map(str, listed))
        return [c for c in self.choices[axis] if not wanted.isdisjoint((c.label, c.name))]

    def _is_known(self, axis: str, name: str) -> bool:
        """Return whether a name matches a choice, or one that is invalid and reported as such."""
        return bool(self.matching(axis, name)) or (axis, name) in self._invalid

    def _no_match(self, axis: str, name: object) -> str:
        labels = [choice.label for choice in self.choices[axis]]
        return f"{name!r} matches nothing; {choices(str(name), labels)}"

    def select(self, conditions: Sequence[str]) -> dict[str, list[VariantChoice]]:
        """Return the choices that `AXIS=NAME` conditions of the command line select, by axis.

        Raises:
            UserError: no such axis, or no choice on it has that label or variant.
        """
        selected: dict[str, list[VariantChoice]] = {}
        for condition in conditions:
            axis, equals, names = condition.partition("=")
            if not equals or axis not in AXES:
                raise UserError(f"--where {condition}: must be AXIS=NAME; {choices(axis, AXES)}")
            for name in names.split(","):
                if not self.matching(axis, name):
                    raise UserError(f"--where {condition}: {self._no_match(axis, name)}")
                selected.setdefault(axis, []).extend(self.matching(axis, name))
        return selected


def architecture_key(entry: Mapping[str, VariantChoice]) -> str:
    """Return a key of an entry's model: it ignores labels and all but its parts."""
    parts = [(a, c.name, c.options) for a, c in entry.items() if is_part(a)]
    return str(parts)


def _label_problem(label: str, other: str) -> str | None:
    """Return why two choices cannot have these labels, None if they can."""
    if label == other:
        return f"two different choices are labelled '{label}'; give one a `label`"
    if label.casefold() == other.casefold():
        return (
            f"the labels '{other}' and '{label}' differ in case only, which some file systems "
            "ignore; give one another `label`"
        )
    return None


def same_variant(a: VariantChoice, b: VariantChoice) -> bool:
    """Return whether two choices differ in their label only, or not at all."""
    return (a.name, a.options) == (b.name, b.options)


@cache
def _options_model(options: type) -> type[StrictModel]:
    """Return a model that validates the options of a variant strictly.

    Raises:
        VariantError: a type or a default cannot be validated.
    """
    types = get_type_hints(options, include_extras=True)
    fields: dict[str, Any] = {}
    problems = []
    for field in dataclasses.fields(options):
        default: Any = Field(validate_default=True)
        if field.default is not dataclasses.MISSING:
            default = Field(default=field.default, validate_default=True)
        elif field.default_factory is not dataclasses.MISSING:
            default = Field(default_factory=field.default_factory, validate_default=True)
        fields[field.name] = (_bounded(types[field.name]), default)
        try:
            TypeAdapter(types[field.name])
        except PydanticSchemaGenerationError:
            problems.append(
                f"{class_line(options)}: the option {field.name} has the type "
                f"{types[field.name]!r}, which a study file cannot state; allowed: bool, int, "
                "float, str, Literal, and lists and tables of these"
            )
    if problems:
        raise VariantError(problems)
    return create_model(options.__qualname__, __base__=StrictModel, **fields)


def _bounded(annotation: Any) -> Any:
    """Return the type of an option, in which every number is finite and at most MAX_NUMBER.

    An option may have closer bounds of its own: `Annotated[int, Field(le=64)]`.
    """
    if annotation is int:
        return Annotated[int, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]
    if annotation is float:
        return Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER, allow_inf_nan=False)]
    origin = get_origin(annotation)
    if origin is None or origin is Literal:
        return annotation
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        return Annotated[_bounded(inner), *metadata]
    arguments = tuple(_bounded(argument) for argument in get_args(annotation))
    if origin in (Union, UnionType):
        return Union[arguments]  # noqa: UP007
    return origin[arguments]
