"""`run` ends with the answer in the terminal; a failure there is none of the runs."""

import subprocess
import sys
from pathlib import Path

from harness import report
from harness.analysis import dataset
from harness.cli import first_screen


def test_the_answer_is_printed_with_the_command_of_the_report(one_axis, capsys, tmp_path):
    one_axis.write()
    text = report.first_screen(dataset.read(one_axis.store, "tiny"), 80, "ascii")
    assert text.isascii() and "verdict" in text and "gqa2" in text
    assert max(map(len, text.partition("\n\n")[0].splitlines())) <= 80


def test_an_error_of_the_answer_does_not_fail_the_command(one_axis, capsys, tmp_path):
    one_axis.write()
    first_screen.show(one_axis.store, "tiny", tmp_path / "gone.toml")
    out, err = capsys.readouterr()
    assert out == "" and "no answer to show" in err
    assert f"report {tmp_path / 'gone.toml'} --results {one_axis.root}" in err


def test_the_answer_loads_no_plots(one_axis):
    one_axis.write()
    code = (
        "import sys; from pathlib import Path; from harness.cli import first_screen\n"
        "from harness.results.store import Store\n"
        f"first_screen.show(Store(Path({str(one_axis.root)!r})), 'tiny', Path('x.toml'))\n"
        "assert not {'torch', 'matplotlib', 'plotly'} & sys.modules.keys()"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
