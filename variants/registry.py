"""Find and load variants by name, in the folders that a study names first, then in this package."""

import functools
import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from variants.base import AXES, Variant

SHIPPED = Path(__file__).parent
USER_PACKAGE = (
    "_user_variants"  # prefix of the module names of users' files; no such package exists
)


class VariantError(Exception):
    """A variant's file cannot be used; the message names the file and the reason."""


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
        KeyError: there is no file of that name.
        VariantError: the file does not import, or does not define exactly one subclass of the
            axis's base class.
    """
    file = files(axis, paths)[name]
    return _load_class(axis, file, file.stat().st_mtime_ns)


def source_sha256(axis: str, name: str, paths: Sequence[Path]) -> str | None:
    """Return the hash of a user's variant, or None for a shipped one (its commit is recorded)."""
    file = files(axis, paths)[name]
    if file.is_relative_to(SHIPPED):
        return None
    return hashlib.sha256(file.read_bytes()).hexdigest()


@functools.cache
def _load_class(axis: str, file: Path, mtime_ns: int) -> type[Variant]:
    """Return the class that a file defines; the cache key has `mtime_ns` to reload edited files."""
    module = _import(axis, file)
    base = AXES[axis].base
    defined = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
    ]
    if len(defined) != 1:
        names = ", ".join(cls.__name__ for cls in defined) or "none"
        raise VariantError(
            f"{file}: must define exactly one subclass of {base.__name__}, defines {names}"
        )
    return defined[0]


def _import(axis: str, file: Path) -> ModuleType:
    try:
        if file.is_relative_to(SHIPPED):
            return importlib.import_module(f"variants.{axis}.{file.stem}")
        return _import_by_path(f"{USER_PACKAGE}.{axis}.{file.stem}", file)
    except Exception as error:
        raise VariantError(f"{file}: does not import: {type(error).__name__}: {error}") from error


def _import_by_path(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up the module of a class
    spec.loader.exec_module(module)
    return module
