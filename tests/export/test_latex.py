"""Tables for a paper: booktabs, valid LaTeX whatever the labels, the numbers of the report."""

import re
import shutil
import subprocess

import pandas as pd
import pytest

from harness.analysis import dataset
from harness.export import export, latex


@pytest.fixture
def folder(one_axis, tmp_path):
    one_axis.axes["attention"] = ["mha", "gqa2", "a_b%{"]
    one_axis.write()
    folder, opening = export(dataset.read(one_axis.store, "tiny"), "latex", tmp_path / "out")
    assert opening.startswith(f"\\input{{{folder}/entries.tex}}")
    return folder


def test_tables_use_booktabs_and_hold_the_numbers_of_the_report(folder):
    names = {path.stem for path in folder.iterdir()}
    assert {"entries", "comparisons", "verdicts", "effects", "rankings"} <= names <= {*latex.TABLES}
    text = (folder / "entries.tex").read_text()
    for command in ("\\toprule", "\\midrule", "\\bottomrule", "\\label{tab:tiny-entries}"):
        assert command in text
    assert "val loss" in text and "val loss low" not in text
    n_columns = len(re.search(r"begin{tabular}{(\w+)}", text).group(1))
    rows = text.split("\\midrule\n")[1].split("\\bottomrule")[0].strip().splitlines()
    assert len(rows) == 3 and {row.count(" & ") + 1 for row in rows} == {n_columns}


def test_special_characters_are_escaped(folder):
    for path in folder.iterdir():
        text = path.read_text()
        assert "a_b%{" not in text
    assert "a\\_b\\%\\{" in (folder / "entries.tex").read_text()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.23456, "$1.235$"),
        (-0.5, "$-0.5$"),
        (1e-7, "$1 \\times 10^{-7}$"),
        (222286.0, "$2.223 \\times 10^{5}$"),
    ],
)
def test_numbers_are_rounded(value, text):
    assert (
        latex.latex(pd.DataFrame({"x": [value]}), "c", "l").split("\\midrule\n")[1].startswith(text)
    )


def test_a_missing_interval_leaves_the_value():
    frame = pd.DataFrame({"x": [1.0, 2.0], "x_low": [0.5, None], "x_high": [1.5, None]})
    rows = latex.latex(frame, "c", "l").split("\\midrule\n")[1].splitlines()
    assert rows[:2] == ["$1$ [$0.5$, $1.5$] \\\\", "$2$ \\\\"]


def test_an_end_at_no_difference_is_open():
    """Closed, the interval next to `better` would include 0."""
    frame = pd.DataFrame({"x": [1.0, -1.0, 0.0], "y_ratio": [0.9, 1.1, 1.0]})
    frame = frame.assign(x_low=[0.0, -2.0, 0.0], x_high=[2.0, 0.0, 0.0])
    frame = frame.assign(y_ratio_low=[0.8, 1.0, 1.0], y_ratio_high=[1.0, 1.2, 1.0])
    rows = latex.latex(frame, "c", "l").split("\\midrule\n")[1].splitlines()
    assert rows[0] == "$1$ ($0$, $2$] & $0.9$ [$0.8$, $1$) \\\\"
    assert rows[1] == "$-1$ [$-2$, $0$) & $1.1$ ($1$, $1.2$] \\\\"
    assert rows[2] == "$0$ [$0$, $0$] & $1$ [$1$, $1$] \\\\"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles_the_tables(folder, tmp_path):
    inputs = "".join(f"\\input{{{path}}}\n" for path in sorted(folder.iterdir()))
    preamble = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
    (tmp_path / "paper.tex").write_text(preamble + inputs + "\\end{document}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
