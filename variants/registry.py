"""Find variants by name: in the study's own folders first, then in the ones that come with the project."""

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


class VariantError(Exception):
    """A variant's file cannot be used; the message says which and why."""


def files(axis: str, paths: Sequence[Path] = ()) -> dict[str, Path]:
    """Return the variants of an axis by name; a file in `paths` hides a shipped one of the same name."""
    folders = [SHIPPED, *reversed(paths)]
    return {
        file.stem: file
        for folder in folders
        for file in sorted((folder / axis).glob("*.py"))
        if not file.stem.startswith("_")
    }


def load(axis: str, name: str, paths: Sequence[Path] = ()) -> type[Any]:
    """Return the class of a variant.

    Raises:
        KeyError: no file of that name.
        VariantError: the file does not import, or does not define exactly one subclass of the axis's base class.
    """
    file = files(axis, paths)[name]
    return _class(axis, file, file.stat().st_mtime_ns)


def source_sha256(axis: str, name: str, paths: Sequence[Path]) -> str | None:
    """Return the hash of a user's variant, and None for one that comes with the project (its commit is recorded)."""
    file = files(axis, paths)[name]
    return None if file.is_relative_to(SHIPPED) else hashlib.sha256(file.read_bytes()).hexdigest()


@functools.cache
def _class(axis: str, file: Path, changed_at: int) -> type[Variant]:
    module = _module(axis, file)
    base = AXES[axis].base
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
    ]
    if len(own) != 1:
        found = ", ".join(cls.__name__ for cls in own) or "none"
        raise VariantError(
            f"{file}: must define exactly one subclass of {base.__name__}, defines {found}"
        )
    return own[0]


def _module(axis: str, file: Path) -> ModuleType:
    shipped = file.is_relative_to(SHIPPED)
    name = f"variants.{axis}.{file.stem}" if shipped else f"user_variants.{axis}.{file.stem}"
    try:
        if shipped:
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module
    except Exception as error:
        raise VariantError(f"{file}: does not import: {type(error).__name__}: {error}") from error
