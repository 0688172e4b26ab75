"""Samples of a variant's options: the given ones, and each option at other values, one at a time.

Booleans and literals are tried at all of their values. Conversions need a checkpoint, so they keep
theirs.
"""

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from variants.base import ModelShape, Variant


def samples(
    cls: type[Variant],
    given: Any,
    shape: ModelShape,
    others: Mapping[str, Sequence[object]] | None = None,
    required: Mapping[str, Mapping[str, object]] | None = None,
) -> Iterator[Any]:
    """Yield the given options, then those that differ in one and that `check` accepts.

    `others` has further values by the option's name, `required` further options that an option
    other than its default requires.
    """
    yield given
    hints = typing.get_type_hints(cls.Options)
    fields: Any = cls.Options
    for option in dataclasses.fields(fields):
        if option.metadata.get("conversion"):
            continue
        values = (*values_of(hints[option.name]), *(others or {}).get(option.name, ()))
        for value in values:
            changes = {**(required or {}).get(option.name, {}), option.name: value}
            options = dataclasses.replace(given, **changes)
            if options != given and not cls.check(shape, options):
                yield options


def values_of(hint: object) -> tuple[object, ...]:
    """Return all values of a boolean or literal type; none of other types."""
    if hint is bool:
        return (True, False)
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def changed(options: Any, given: Any) -> str:
    """Return the options that differ from the given ones: "name=value, ..."."""
    differing = []
    for option in dataclasses.fields(options):
        value = getattr(options, option.name)
        if value != getattr(given, option.name):
            differing.append(f"{option.name}={value}")
    return ", ".join(differing)
