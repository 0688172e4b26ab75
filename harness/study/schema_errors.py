"""Describe the errors of a schema: the key path, the value, and what is allowed."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from harness.errors import choices

MAX_SHOWN = 100  # characters of a value in a message
_BARE_KEY = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_SHOWN}}}")


def describe_errors(error: ValidationError, model: type[BaseModel]) -> list[tuple[str, str]]:
    """Return each invalid key path, with its problem and the allowed values.

    For a value of several allowed types, pydantic reports one error per type; they are merged.
    """
    separator = ": input should be "
    messages: dict[str, str] = {}
    for detail in error.errors():
        key, message = _describe(detail, model)
        if separator in messages.get(key, "") and separator in message:
            message = f"{messages[key]}, or {message.partition(separator)[2]}"
        messages[key] = message
    refined = {outer for key in messages for outer in _outer_keys(key)}
    return [(key, message) for key, message in messages.items() if key not in refined]


def _outer_keys(key: str) -> Iterator[str]:
    """Yield the key paths of the values that hold the one at `key`, which is at fault instead."""
    for i, character in enumerate(key):
        if character in "[.":
            yield key[:i]


def _describe(detail: ErrorDetails, model: type[BaseModel]) -> tuple[str, str]:
    keys = [key for key in detail["loc"] if not _UNION_TAG.fullmatch(str(key))]
    location = key_path(keys)
    if detail["type"] == "extra_forbidden":
        return location, f"unknown key; {choices(str(keys[-1]), _fields(model, keys[:-1]))}"
    if detail["type"] == "missing":
        return location, "missing, and has no default"
    message = detail["msg"].removeprefix("Value error, ").replace("valid dictionary", "table")
    return location, f"{shown(detail['input'])}: {message[:1].lower()}{message[1:]}"


# Names of types that pydantic inserts into the key path of a value that may have several types.
_UNION_TAG = re.compile(r"(constrained-)?(str|int|float|bool)|(list|dict|literal)\[.*\]")


def shown(value: object) -> str:
    """Return a value as an error message shows it: shortened, if it is long."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def _fields(model: type[BaseModel], keys: Iterable[int | str]) -> list[str]:
    """Return the keys that the section at `keys` may have."""
    for key in keys:
        if isinstance(key, str):
            model = next(_models(model.model_fields[key].annotation))
    return list(model.model_fields)


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """Yield the sections in a type: itself, or what it is optional, a list or a choice of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def key_path(keys: Iterable[int | str]) -> str:
    """Format a key path as in TOML: axes.attention[2].window, axes."train.lr"[0]."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += f".{quoted(key)}"
    return text.removeprefix(".")


def quoted(key: str) -> str:
    """Return a key as TOML needs it: in quotes unless it is bare; shortened, if it is long."""
    if _BARE_KEY.fullmatch(key):
        return key
    text = json.dumps(key, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else f'{text[: MAX_SHOWN - 4]}..."'
