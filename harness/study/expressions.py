"""Arithmetic that ties a setting to others: `20 * parameters / tokens_per_step`.

The grammar is that of Python's numbers, names, parentheses and `+ - * / // % **`. Python's parser
reads it; nothing else is evaluated.
"""

import ast
import math
import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.errors import choices

NAMES = ("parameters", "n_embd", "n_layer", "tokens_per_step", "seq_len")
MAX_LENGTH = 200  # characters
ALLOWED = f"allowed: numbers, {', '.join(NAMES)}, parentheses, and + - * / // % **"

_BINARY: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: Mapping[type[ast.unaryop], Callable[[float], float]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


class ExpressionError(Exception):
    """An expression is invalid or has no value; the message states the column, from 1."""


@dataclass(frozen=True)
class Expression:
    """A parsed expression, and the names that it uses."""

    text: str
    names: frozenset[str]
    _tree: ast.expr

    def evaluate(self, values: Mapping[str, float]) -> float:
        """Return the value with these values of its names.

        Raises:
            ExpressionError: a division by zero, or a result that is not a finite real number.
        """
        result = _evaluate(self._tree, values)
        if not math.isfinite(result):
            raise ExpressionError("its value is too large")
        return result


def is_number(text: str) -> bool:
    """Return whether a text is a number and no expression."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def parse(text: str) -> Expression:
    """Parse an expression.

    Raises:
        ExpressionError: the text is too long or not in the grammar.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"column {MAX_LENGTH + 1}: longer than {MAX_LENGTH} characters")
    for column, character in enumerate(text, start=1):
        if not (character.isascii() and character.isprintable()):
            raise ExpressionError(f"column {column}: {character!r} is not allowed; {ALLOWED}")
    stripped = text.lstrip()
    n_stripped = len(text) - len(stripped)
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(stripped, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        offset = getattr(error, "offset", None) or len(stripped) + 1  # at the end, if it is absent
        column = min(offset, len(stripped) + 1) + n_stripped
        raise ExpressionError(f"column {column}: not an expression; {ALLOWED}") from error
    names: set[str] = set()
    _check(tree, names, n_stripped)
    return Expression(text, frozenset(names), tree)


def _check(node: ast.expr, names: set[str], n_stripped: int) -> None:
    """Check that a tree has only nodes of the grammar; collect its names."""
    column = node.col_offset + 1 + n_stripped
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        _check(node.left, names, n_stripped)
        _check(node.right, names, n_stripped)
    elif isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        _check(node.operand, names, n_stripped)
    elif isinstance(node, ast.Name):
        if node.id not in NAMES:
            message = f"no such name '{node.id}'; {choices(node.id, NAMES)}"
            raise ExpressionError(f"column {column}: {message}")
        names.add(node.id)
    elif not (isinstance(node, ast.Constant) and type(node.value) in (int, float)):
        part = ast.unparse(node)
        raise ExpressionError(f"column {column}: `{part}` is not allowed; {ALLOWED}")


def _evaluate(node: ast.expr, values: Mapping[str, float]) -> float:
    if isinstance(node, ast.Name):
        return float(values[node.id])
    try:
        if isinstance(node, ast.BinOp):
            left = _evaluate(node.left, values)
            right = _evaluate(node.right, values)
            result = _BINARY[type(node.op)](left, right)
            if isinstance(result, complex):
                raise ExpressionError(f"a root of the negative number {left:g} is not real")
            return result
        if isinstance(node, ast.UnaryOp):
            return _UNARY[type(node.op)](_evaluate(node.operand, values))
        assert isinstance(node, ast.Constant)
        return float(node.value)  # type: ignore[arg-type]  # `_check` allows int and float only
    except ZeroDivisionError as error:
        divisor = ast.unparse(node.right) if isinstance(node, ast.BinOp) else ast.unparse(node)
        raise ExpressionError(f"division by zero: `{divisor}` is 0 here") from error
    except OverflowError as error:
        raise ExpressionError("its value is too large") from error
