"""Without these, a reformatted file would count as other code, or an edited formula as the same."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from harness.provenance.syntax import syntax_hash

CODE = '''
"""Doc."""
import math  # comment


class A(dict):
    """Doc."""

    scale = 2.0
    title = "A-{n}"

    def f(self, x, *rest, key=None, **others):
        """Doc."""
        text = f"{x!r:>{len(rest)}} and {key}"
        match x:
            case {"a": [1, *tail]} if tail:
                return -x ** 2 + math.pi
        return [y for y in rest if y > 1] or {**others} or (lambda z: z)(text)
'''
SAME = {
    "docstrings": ("Doc.", "Other."),
    "title": ('"A-{n}"', '"B"'),
    "no title": ('    title = "A-{n}"\n', ""),
    "typed title": ("title =", "title: str ="),
    "comment": ("# comment", "# another"),
    "line break": ("scale = 2.0", "scale = (\n        2.0\n    )"),
    "quotes": ('{"a": [1', "{'a': [1"),
    "parentheses": ("-x ** 2 + math.pi", "(-(x ** 2)) + math.pi"),
    "blank lines": ("\n\nclass", "\nclass"),
}
OTHER = {
    "number": ("2.0", "2.1"),
    "title that is not text": ('"A-{n}"', "2"),
    "title of another name": ("title =", "heading ="),
    "type of a number": ("2.0", "2"),
    "operator": ("** 2 +", "** 2 -"),
    "name": ("math.pi", "math.e"),
    "default": ("key=None", "key=0"),
    "condition": ("y > 1", "y >= 1"),
    "string": ('"a"', '"b"'),
    "format": ("!r:", "!s:"),
    "pattern": ("*tail]", "tail]"),
    "precedence": ("-x ** 2", "(-x) ** 2"),
    "base class": ("(dict)", "(list)"),
}


@pytest.fixture
def hash_of(tmp_path):
    """Return a function that hashes code; each call has a file of its own."""

    def hash_of(code: str) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.py"
        path.write_text(code)
        return syntax_hash(path)

    return hash_of


@pytest.mark.parametrize("change", SAME)
def test_what_does_not_compute_keeps_the_hash(change, hash_of):
    old, new = SAME[change]
    assert old in CODE
    assert hash_of(CODE.replace(old, new)) == hash_of(CODE)


@pytest.mark.parametrize("change", OTHER)
def test_an_edited_expression_changes_the_hash(change, hash_of):
    old, new = OTHER[change]
    assert old in CODE
    assert hash_of(CODE.replace(old, new)) != hash_of(CODE)


def test_reformatted_files_of_this_project_keep_their_hash(hash_of):
    for file in sorted(Path("harness").rglob("*.py"))[::5]:
        code = file.read_text()
        assert hash_of(ast.unparse(ast.parse(code))) == syntax_hash(file), file


def test_the_hash_is_the_same_under_every_python(hash_of):
    """Another version of Python adds fields to the tree, as `type_params` in 3.12."""
    assert hash_of(CODE) == "ebe2dc1c7aba90473e3bd4f05a18c7a54df22d5e2c8cbc6a8a1955bbe97c89af"


def test_an_edit_within_the_process_is_seen(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("x = 1\n")
    before = syntax_hash(path)
    path.write_text("x = 10\n")
    assert syntax_hash(path) != before


@pytest.mark.parametrize("content", [b"x = (\n", b"\xff\xfe", b"", b"x = 1" + b"+1" * 5000])
def test_a_file_that_cannot_be_parsed_has_a_hash(content, tmp_path):
    path = tmp_path / "a.py"
    path.write_bytes(content)
    assert len(syntax_hash(path)) == 64


def test_hashing_needs_no_torch():
    code = "import sys, harness.provenance.sources; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
