"""Check the choice of a variant: the code of a user's file may raise anything, anywhere."""

import json
from collections.abc import Iterator, Mapping

from harness.model.part_check import build_problems, describe_failure
from variants import global_state
from variants.base import Attention, ModelShape, Positional, Variant
from variants.errors import CODE_ERRORS, class_line, is_users


def option_problems(
    axis: str, cls: type[Variant], values: Mapping[str, object], shape: ModelShape
) -> Iterator[tuple[str, str]]:
    """Yield (option, message) of the faults of a variant and its options at this shape.

    The option is "" if the variant itself is at fault.
    """
    if is_users(cls):
        checks = f"the checks of {cls.__name__} ({class_line(cls)})"
        found: list[tuple[str, str]] = []
        try:
            with global_state.guarded(checks) as changes:
                found += _problems(axis, cls, values, shape)
        except CODE_ERRORS:  # of our own code, which a change of a built-in function breaks
            if not changes:
                raise
        yield from found
        if changes:
            yield "", f"{class_line(cls)}: a method of {cls.__name__} {changes}"
    else:
        yield from _problems(axis, cls, values, shape)


def _problems(
    axis: str, cls: type[Variant], values: Mapping[str, object], shape: ModelShape
) -> Iterator[tuple[str, str]]:
    try:
        json.dumps(values)
    except (TypeError, ValueError) as error:
        remedy = "options must be numbers, texts, booleans, lists or tables"
        yield "", f"{class_line(cls.Options)}: {error}; {remedy}"
        return
    try:
        options = cls.Options(**values)
    except CODE_ERRORS as error:
        yield "", describe_failure(error, "Options", cls)
        return
    invalid = list(_rejected(cls, options, shape))
    yield from invalid
    if not invalid and shape.n_embd % shape.n_head == 0:
        yield from (("", problem) for problem in build_problems(cls, options, shape))


def _rejected(cls: type[Variant], options: object, shape: ModelShape) -> Iterator[tuple[str, str]]:
    """Yield the options that the variant's own checks reject, and the checks that fail."""
    method = "check"
    try:
        rejected = cls.check(shape, options)
        yield from rejected.items()
        if issubclass(cls, Positional):
            method = "check_rotary"
            cls.check_rotary(shape.head_dim, options).items()
        elif issubclass(cls, Attention):
            method = "rotary_dim"
            width = cls.rotary_dim(shape, options)
            if not (isinstance(width, int) and width > 0):
                yield "", f"{class_line(cls)}: `rotary_dim` returns {width!r}; it must be a width"
    except CODE_ERRORS as error:
        yield "", describe_failure(error, method, cls)
