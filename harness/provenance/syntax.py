"""Parse source files: the hash of their syntax tree, and the names and strings that they use."""

import ast
import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.provenance.contents import Stamp, stamp
from harness.results.files import read_file

# Fields that follow from others, or that only some versions of Python have.
_IGNORED_FIELDS = frozenset(("ctx", "kind", "type_comment", "type_ignores"))
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Import:
    """An imported name: `level` is the number of leading dots of a relative import."""

    level: int
    name: str


@dataclass(frozen=True)
class Source:
    """A file of code: SHA-256 of its syntax tree and of its bytes, its imports, its strings.

    A file that is not valid Python, such as a table of numbers, has the hash of its bytes as both.
    """

    syntax_sha256: str
    content_sha256: str
    imports: tuple[Import, ...] = ()
    strings: frozenset[str] = frozenset()


def syntax_hash(path: Path) -> str:
    """Return the SHA-256 of a file's syntax tree, without docstrings, comments and formatting.

    The `title` of a class is left out, too: it is the name of a variant in reports.

    It is the same under every version of Python that parses the file to the same tree.

    Raises:
        OSError: the file cannot be read.
    """
    return read(path).syntax_sha256


def read(path: Path) -> Source:
    """Return the hashes, imports and strings of a file; unchanged files are parsed once.

    Raises:
        OSError: the file cannot be read.
    """
    return _read(path, stamp(path))


@functools.cache
def _read(path: Path, stamp: Stamp) -> Source:
    content = read_file(path)
    content_sha256 = hashlib.sha256(content).hexdigest()
    if path.suffix != ".py":
        return Source(content_sha256, content_sha256)
    dump = _Dump()
    try:
        dump.add(ast.parse(content))
    except (SyntaxError, ValueError, RecursionError):
        return Source(content_sha256, content_sha256)
    syntax = "\n".join(dump.parts).encode(errors="surrogatepass")
    return Source(
        syntax_sha256=hashlib.sha256(syntax).hexdigest(),
        content_sha256=content_sha256,
        imports=tuple(dict.fromkeys(dump.imports)),
        strings=frozenset(dump.strings),
    )


@dataclass
class _Dump:
    """The types, fields and values of a tree, and the strings and imports in it.

    Fields without a value are left out, as newer versions of Python add such fields.
    """

    parts: list[str] = field(default_factory=list)
    strings: set[str] = field(default_factory=set)
    imports: list[Import] = field(default_factory=list)

    def add(self, node: object) -> None:
        if isinstance(node, ast.AST):
            self._add_node(node)
        elif isinstance(node, list):
            self.parts.append("[")
            for element in node:
                self.add(element)
            self.parts.append("]")
        else:
            self.parts.append(repr(node))
            if isinstance(node, str):
                self.strings.add(node)

    def _add_node(self, node: ast.AST) -> None:
        self.parts.append(f"({type(node).__name__}")
        if isinstance(node, ast.Import | ast.ImportFrom):
            self.imports += _imported(node)
        for name in node._fields:
            value = getattr(node, name, None)
            if name == "body" and isinstance(node, _WITH_DOCSTRING):
                value = _without_docstring(value)
                if isinstance(node, ast.ClassDef):
                    value = _without_title(value)
            elif isinstance(node, ast.JoinedStr):
                value = [part for part in node.values if not _is_empty(part)]
            if name in _IGNORED_FIELDS or value is None or value == []:
                continue
            self.parts.append(name)
            self.add(value)
        self.parts.append(")")


def _is_empty(node: ast.expr) -> bool:
    """Return whether a part of an f-string is an empty text, which Python 3.12 adds."""
    return isinstance(node, ast.Constant) and node.value == ""


def _without_docstring(body: object) -> object:
    """Return the statements of a module, class or function without its docstring."""
    if not isinstance(body, list) or not body or not isinstance(body[0], ast.Expr):
        return body
    value = body[0].value
    is_docstring = isinstance(value, ast.Constant) and isinstance(value.value, str)
    return body[1:] if is_docstring else body


def _without_title(body: object) -> object:
    """Return the statements of a class without those that set its `title` to a text."""
    if not isinstance(body, list):
        return body
    return [statement for statement in body if not _is_title(statement)]


def _is_title(statement: ast.stmt) -> bool:
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    else:
        return False
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    value = statement.value
    is_text = isinstance(value, ast.Constant) and isinstance(value.value, str)
    return is_text and len(targets) == 1 and names == ["title"]


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[Import]:
    """Yield the names that a statement imports."""
    for alias in node.names:
        if isinstance(node, ast.Import):
            yield Import(0, alias.name)
        else:
            module = f"{node.module}." if node.module else ""
            yield Import(node.level, module + alias.name)
