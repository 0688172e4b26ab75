"""Each faulty variant of the gallery is refused or flagged by name, on one screen.

The docstring of each says how: `refused`, `flagged` by a warning, found by `check`, or `at run
time`, and what the message must contain.
"""

import ast
from pathlib import Path

import pytest

GALLERY = Path(__file__).parents[1] / "faults/variants"
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


def test_gallery_is_complete():
    assert len(FILES) >= 30
    ways = {expectation(file)[0] for file in FILES}
    assert ways == {"refused", "flagged", "check", "at run time"}


@found("refused", "flagged")
def test_faulty_variant_is_named_before_the_start(study, file):
    """It would train, and its report would be wrong, or it would fail after other runs."""
    how, parts = expectation(file)
    axis = file.parent.name
    study.write(GALLERY, **{axis: f'["{file.stem}"]'})
    printed = study.run("--dry-run", code=2 if how == "refused" else 0)
    assert len(printed.splitlines()) <= SCREEN
    assert "Traceback" not in printed
    for part in parts:
        assert part in printed, printed
    assert not study.has_results
