"""Read the axes of a study with variants that are imported, and validate their options."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError

from harness.config import variant_check
from harness.errors import Problem, UserError
from harness.results.records import StrictModel, VariantChoice
from harness.study.axes import StatedAxes, VariantSelection
from harness.study.schema_errors import describe_errors
from variants import registry
from variants.base import AXES, ModelShape, is_part
from variants.errors import VariantError, class_line

MAX_NUMBER = 2**31 - 1  # of options; larger ones overflow somewhere in PyTorch


@dataclasses.dataclass
class Axes(StatedAxes):
    """The choices on each axis of a study, with all options of their variants.

    `shape` is the shape that options are checked against (None: shapes differ by entry,
    `option_problems` checks them later).
    """

    shape: ModelShape | None = None

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
        if self.shape is not None:
            problems = [
                self._problem(f"{key}.{option}" if option else key, message)
                for option, message in variant_check.option_problems(axis, cls, options, self.shape)
            ]
            if problems:
                raise UserError(problems)
        return options

    def _title_form(self, axis: str, name: str) -> str:
        return registry.own_title(registry.load(axis, name, self.paths))

    def option_problems(self, entry: VariantSelection, shape: ModelShape) -> Iterator[Problem]:
        """Yield the options of an entry's variants that are invalid at the shape of its model."""
        for axis, choice in entry.items():
            if axis not in AXES:
                continue
            cls = registry.load(axis, choice.name, self.paths)
            place = self._places.get((axis, choice.label), f"axes.{axis}")
            found = variant_check.option_problems(axis, cls, choice.options, shape)
            for option, message in found:
                yield self._problem(f"{place}.{option}" if option else place, message)


def architecture_key(entry: Mapping[str, VariantChoice]) -> str:
    """Return a key of an entry's model at one shape: it ignores labels and all but the parts."""
    parts = [(a, c.name, c.options) for a, c in entry.items() if is_part(a)]
    return str(parts)


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
