"""A terminal must not obey a label, a message or a line of a log."""

import ast
import contextlib
import doctest
import io
import unicodedata
from pathlib import Path

import pytest

import harness
from harness import printable as module
from harness.cli import output
from harness.errors import Problem, UserError
from harness.export.latex import latex
from harness.launch.progress import ProgressReporter
from harness.printable import one_line, printable
from harness.report.charts import mpl, plotly
from harness.report.charts.spec import Axis, BarRow, Bars, ChartSpec, Part
from harness.report.document import FirstScreen
from harness.report.render import terminal

ATTACK = "a\x1b[2J\x1b]0;title\x07b\x9b31mc\r\nd\x00\u202ee\u2028f\ud800"
SHOWN = "abc\nd\\x00\\u202ee\\u2028f\\ud800"


def test_examples():
    assert doctest.testmod(module).failed == 0


def test_every_control_character_is_shown_as_a_code():
    for number in range(0x110000):
        character = chr(number)
        is_bidi = unicodedata.bidirectional(character) in (
            *("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"),
        )
        is_control = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or is_bidi
        if is_control and character not in "\t\n\r":
            assert printable(character) not in ("", character) and printable(character).isascii()
        elif unicodedata.category(character)[0] in "LNPS":
            assert printable(character) == character


def test_text_of_one_line_has_no_line_end():
    assert printable(ATTACK) == SHOWN
    assert one_line("a\n b\t\r\n\x0b\x85c\u2028d") == "a b c d"


def _printed(write):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        write()
    return out.getvalue()


def _progress():
    with ProgressReporter([]) as progress:
        progress.log(ATTACK)


def _figure():
    bars = Bars(Axis(ATTACK), [Part(ATTACK, "#000000")], [BarRow(ATTACK, (1.0,))])
    spec = ChartSpec("name", ATTACK, ATTACK, ATTACK, bars)
    texts = mpl.draw(spec).findobj(lambda artist: hasattr(artist, "get_text"))
    return "\n".join(text.get_text() for text in texts) + str(plotly.render(spec))


PLACES = {
    "stdout": lambda: _printed(lambda: output.show(ATTACK)),
    "stderr": lambda: _printed(lambda: output.log(ATTACK)),
    "errors": lambda: _printed(
        lambda: output.report_error(UserError([Problem(ATTACK, ATTACK), Problem("", ATTACK)]))
    ),
    "progress": lambda: _printed(_progress),
    "first screen": lambda: terminal.render(FirstScreen((ATTACK,), [(ATTACK,)])),
    "LaTeX": lambda: latex(_frame(), "caption", "label"),
    "figures": _figure,
}


def _frame():
    import pandas as pd

    return pd.DataFrame({"entry": [ATTACK[:-1]]})  # JSON has no lone surrogates


@pytest.mark.parametrize("place", PLACES)
def test_no_place_shows_a_control_character(place):
    shown = PLACES[place]()
    assert "u202e" in shown
    assert not set("\x00\x07\x1b\x9b\r\u202e\u2028\ud800") & set(shown), repr(shown)


def test_commands_print_with_the_helper():
    """`print` itself would pass on what a file of results holds."""
    exempt = {"output.py", "sample.py", "first_screen.py"}
    for path in sorted(Path(harness.__file__).parent.joinpath("cli").glob("*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if is_print(node)]
        assert not calls or path.name in exempt, f"{path.name}:{calls[0].lineno}"


def is_print(node):
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    return is_call and node.func.id == "print"


def test_no_lines_are_no_empty_line(capsys):
    output.show()
    output.log()
    output.show("")
    assert tuple(capsys.readouterr()) == ("\n", "")
