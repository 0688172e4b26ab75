"""The gallery of faulty variants: `tests/faults/variants/AXIS/NAME.py`.

The docstring of each says how it is found, `refused` before the start, `flagged` by a warning, by
`check`, or `at run time`, and what the message must contain.
"""

import ast
from pathlib import Path

import pytest

GALLERY = Path(__file__).parent / "faults/variants"
FILES = sorted(GALLERY.rglob("*.py"))
SCREEN = 24  # lines


def expectation(file):
    """Return how a faulty variant is found, and what the message contains."""
    docstring = ast.get_docstring(ast.parse(file.read_text()))
    how, _, parts = docstring.split("\n\n")[1].partition(": ")
    return how, " ".join(parts.split()).split(", ")


def found(*ways):
    files = [file for file in FILES if expectation(file)[0] in ways]
    ids = [f"{file.parent.name}-{file.stem}" for file in files]
    return pytest.mark.parametrize("file", files, ids=ids)
