"""Find and load variants by name, in the folders that a study names first, then in this package."""

import dataclasses
import functools
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from string import Formatter
from types import ModuleType
from typing import Any, get_type_hints

from variants import global_state
from variants.base import AXES, Variant
from variants.errors import (
    CODE_ERRORS,
    SHIPPED,
    USER_PACKAGE,
    VariantError,
    class_line,
    describe,
)

MAX_TITLE = 40  # characters


def files(axis: str, paths: Sequence[Path] = ()) -> dict[str, Path]:
    """Return the files of an axis's variants by name; the first of `paths` that has a name wins."""
    available = {}
    for folder in (SHIPPED, *reversed(paths)):
        for file in sorted((folder / axis).glob("*.py")):
            if not file.stem.startswith("_"):
                available[file.stem] = file
    return available


def load(axis: str, name: str, paths: Sequence[Path] = ()) -> type[Any]:
    """Return the class of a variant.

    Raises:
        VariantError: there is no file of that name, the file does not import or does not define
            exactly one subclass of the axis's base class, or the class lacks a method or has
            invalid options.
    """
    file = files(axis, paths).get(name)
    try:
        if file is not None:
            return _load_class(axis, file, file.stat().st_mtime_ns)
    except FileNotFoundError:  # removed meanwhile
        pass
    folders = ", ".join(str(folder / axis) for folder in (*paths, SHIPPED))
    raise VariantError([f"{axis} variant {name}: there is no {name}.py in {folders}"])


@functools.cache
def _load_class(axis: str, file: Path, mtime_ns: int) -> type[Variant]:
    """Return the class that a file defines; the cache key has `mtime_ns` to reload edited files."""
    module = _import(axis, file)
    defined = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__
    ]
    cls = _only_variant(axis, file, dict.fromkeys(defined))
    problems = [*_missing_methods(axis, cls), *_option_problems(cls)]
    problems = problems or [*_title_problems(cls)]
    if problems:
        raise VariantError(problems)
    return cls


def _only_variant(axis: str, file: Path, defined: Iterable[type]) -> type[Variant]:
    """Return the only class of a file that is a variant of the axis."""
    base = AXES[axis].base
    variants = [cls for cls in defined if issubclass(cls, base)]
    if len(variants) == 1:
        return variants[0]
    rule = f"must define exactly one subclass of {base.__name__}"
    if variants:
        lines = ", ".join(f"{cls.__name__} ({class_line(cls)})" for cls in variants)
        remedy = "move the others to files of their own; the name of a helper begins with _"
        raise VariantError([f"{file}: {rule}, defines {lines}; {remedy}"])
    others = [
        f"{cls.__name__} ({class_line(cls)}), a {cls.__mro__[1].__name__}"
        for cls in defined
        if not dataclasses.is_dataclass(cls)
    ]
    found = f"defines only {'; '.join(others)}" if others else "defines none"
    raise VariantError([f"{file}: {rule}, {found}"])


def _missing_methods(axis: str, cls: type[Variant]) -> Iterator[str]:
    base = AXES[axis].base
    for name in AXES[axis].required:
        if getattr(cls, name) is getattr(base, name):
            contract = (getattr(base, name).__doc__ or "").partition("\n")[0]
            yield (
                f"{class_line(cls)}: {cls.__name__} must define `{name}` ({contract}); "
                f"{base.__name__} in variants/base.py states its arguments"
            )


def _option_problems(cls: type[Variant]) -> Iterator[str]:
    options: object = cls.Options
    if not (isinstance(options, type) and dataclasses.is_dataclass(options)):
        form = "must be a frozen dataclass; decorate it with @dataclass(frozen=True)"
        place = class_line(options if isinstance(options, type) else cls)
        yield f"{place}: {cls.__name__}.Options is {_kind(options)}: {form}"
        return
    if not options.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        remedy = "must be frozen: @dataclass(frozen=True)"
        yield f"{class_line(options)}: the dataclass {cls.__name__}.Options {remedy}"
    try:
        get_type_hints(options)
    except CODE_ERRORS as error:
        action = f"a type of {cls.__name__}.Options"
        yield describe(error, action, [], options)


def own_title(cls: type[Variant]) -> str:
    """Return the title that a variant's class states itself, empty without one."""
    return str(vars(cls).get("title", ""))


def _title_problems(cls: type[Variant]) -> Iterator[str]:
    """Yield why the title is not a format string over the fields of the options."""
    title: object = vars(cls).get("title", "")
    place = f"{class_line(cls)}: {cls.__name__}.title"
    if not isinstance(title, str) or not title.isprintable() or len(title) > MAX_TITLE:
        yield f"{place} is {title!r}: must be a text of at most {MAX_TITLE} printable characters"
        return
    allowed = [field.name for field in dataclasses.fields(cls.Options)]
    listed = ", ".join(allowed) or "none, as the variant has no options"
    try:
        parts = list(Formatter().parse(title))
    except ValueError as error:
        yield f"{place} is {title!r}: {error}; write an option as {{option}} and a brace as {{{{"
        return
    for _, name, form, conversion in parts:
        if name is not None and (name not in allowed or form or conversion):
            field = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            yield f"{place} is {title!r}: no option '{field}'; allowed: {listed}"


def _kind(value: object) -> str:
    if isinstance(value, type):
        return "a class that is not a dataclass"
    return f"{value!r}"


def _import(axis: str, file: Path) -> ModuleType:
    name = f"{USER_PACKAGE}.{axis}.{file.stem}"
    try:
        if file.is_relative_to(SHIPPED):
            return importlib.import_module(f"variants.{axis}.{file.stem}")
        with global_state.guarded(f"the import of {file}") as changes:
            module = _import_by_path(name, file)
    except CODE_ERRORS as error:
        sys.modules.pop(name, None)
        problem = describe(error, f"the import of {file.name}", [file])
        raise VariantError([f"{problem}; correct the file"]) from error
    if changes:
        sys.modules.pop(name, None)
        raise VariantError([f"{file}: its import {changes}"])
    return module


def _import_by_path(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up the module of a class
    spec.loader.exec_module(module)
    return module
