"""Read the options of a variant from its file, without importing it, which would load torch."""

import ast
from functools import cache
from pathlib import Path
from typing import Final

from harness.results.files import read_file
from harness.study.axis_names import SHIPPED


class Unknown:
    """The default of an option that only running the file shows."""


REQUIRED: Final = Unknown()  # an option without a default
COMPUTED: Final = Unknown()  # a default that is not a literal

Defaults = dict[str, object]  # by option; REQUIRED or COMPUTED in place of a value


def read_defaults(file: Path) -> Defaults | None:
    """Return the default of each option of a variant; None if its file does not show them.

    The options are a dataclass whose fields, and those of its bases, are stated in the file or in
    one that it imports from.
    """
    return _read(file, file.stat().st_mtime_ns)


@cache
def _read(file: Path, mtime_ns: int) -> Defaults | None:
    module = _Module.parse(file)
    if module is None:
        return None
    for name in reversed(module.classes):
        options = module.options_of(name)
        if options is not None:
            return options
    return {}


def read_title(file: Path) -> str:
    """Return the title that a variant's class states; empty if the file does not show one."""
    module = _Module.parse(file)
    title = ""
    for node in module.classes.values() if module is not None else ():
        for statement in node.body:
            value = _default(getattr(statement, "value", None))
            if "title" in _targets(statement) and isinstance(value, str):
                title = value
    return title


class _Module:
    """The classes of a file, and where it imports others from."""

    def __init__(self, file: Path, tree: ast.Module) -> None:
        self._root = file.parent.parent
        self.classes: dict[str, ast.ClassDef] = {}
        self._imports: dict[str, tuple[str, str]] = {}  # name here: module, name there
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                self.classes[node.name] = node
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                for alias in node.names:
                    self._imports[alias.asname or alias.name] = (node.module, alias.name)

    @classmethod
    def parse(cls, file: Path) -> "_Module | None":
        try:
            return cls(file, ast.parse(read_file(file).decode("utf-8")))
        except (OSError, SyntaxError, ValueError):
            return None

    def options_of(self, name: str) -> Defaults | None:
        """Return the defaults of a class's `Options`, stated in its body or by a base class.

        None if neither states any.
        """
        found = self._find(name)
        if found is None:
            return None
        module, node = found
        for statement in node.body:
            if isinstance(statement, ast.ClassDef) and statement.name == "Options":
                return module.fields_of(statement)
            if "Options" in _targets(statement):
                value = getattr(statement, "value", None)
                other = module._find(value.id) if isinstance(value, ast.Name) else None
                return None if other is None else other[0].fields_of(other[1])
        for base in _base_names(node):
            options = module.options_of(base)
            if options is not None:
                return options
        return None

    def fields_of(self, node: ast.ClassDef) -> Defaults:
        """Return the defaults of a dataclass's fields, those of its bases first."""
        fields: Defaults = {}
        for base in _base_names(node):
            found = self._find(base)
            if found is not None:
                fields |= found[0].fields_of(found[1])
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                if "ClassVar" not in ast.dump(statement.annotation):
                    fields[statement.target.id] = _default(statement.value)
        return fields

    def _find(self, name: str) -> "tuple[_Module, ast.ClassDef] | None":
        """Return the class of that name and the module that defines it."""
        if name in self.classes:
            return self, self.classes[name]
        module_name, original = self._imports.get(name, ("", ""))
        if module_name == "variants.base" or not module_name:
            return None
        *folders, stem = module_name.split(".")
        if folders[:1] == ["variants"]:
            file = SHIPPED.joinpath(*folders[1:], f"{stem}.py")
        else:
            file = self._root.joinpath(*folders, f"{stem}.py")
        module = _Module.parse(file)
        return None if module is None else module._find(original)


def _targets(statement: ast.stmt) -> list[str]:
    """Return the names that a statement assigns."""
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _base_names(node: ast.ClassDef) -> list[str]:
    names = []
    for base in node.bases:
        inner = base.value if isinstance(base, ast.Subscript) else base
        if isinstance(inner, ast.Name):
            names.append(inner.id)
    return names


def _default(value: ast.expr | None) -> object:
    if value is None:
        return REQUIRED
    try:
        return ast.literal_eval(value)
    except ValueError:
        return COMPUTED
