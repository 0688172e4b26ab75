"""Write docs/example/: the report of ablations.toml on tiny Shakespeare, and its figures.

`python docs/example.py` trains in a temporary folder, in about 10 minutes on two CPU cores
(`make example`). `python docs/example.py FOLDER` keeps the results in FOLDER/results and trains
only the runs that are not done. The report names neither the machine nor its folders.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "docs/example"
STUDY = "ablations.toml"
FIGURE = re.compile(r"\]\((figures/[^)]+\.png)\)")
N_COLOURS = 128  # of a figure, for small files
PRIVATE = re.compile(r"^\| (?:host|platform) +\|.*\n", re.MULTILINE)


def train_and_report(folder: Path) -> Path:
    """Train the runs that are not done and write their report; return its folder.

    Commands run in `folder` with relative paths, since the report quotes them.
    """
    shutil.copy2(ROOT / STUDY, folder / STUDY)
    paths = os.environ.get("PYTHONPATH")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), paths]))}
    command = [sys.executable, "-m", "harness"]
    for arguments in (["run", STUDY], ["report", STUDY]):
        subprocess.run([*command, *arguments], cwd=folder, env=environment, check=True)
    (report,) = (folder / "reports").iterdir()
    if "Corpus: `tinyshakespeare`" not in (report / "report.md").read_text(encoding="utf-8"):
        sys.exit(
            f"{folder}: another corpus replaced tiny Shakespeare, which could not be downloaded; "
            "put tinyshakespeare.txt into a folder and set ABLATIONS_DATA to it"
        )
    return report


def copy(report: Path) -> None:
    """Replace docs/example/ by a report and the figures that it shows."""
    text = PRIVATE.sub("", (report / "report.md").read_text(encoding="utf-8"))
    shutil.rmtree(EXAMPLE, ignore_errors=True)
    (EXAMPLE / "figures").mkdir(parents=True)
    (EXAMPLE / "report.md").write_text(text, encoding="utf-8")
    for name in dict.fromkeys(FIGURE.findall(text)):
        with Image.open(report / name) as figure:
            reduced = figure.convert("RGB").quantize(N_COLOURS, dither=Image.Dither.NONE)
            reduced.save(EXAMPLE / name, optimize=True)


def main() -> None:
    """Write the example in the folder that the command line names, or in a temporary one."""
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1]).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        copy(train_and_report(folder))
        return
    with tempfile.TemporaryDirectory() as temporary:
        copy(train_and_report(Path(temporary)))


if __name__ == "__main__":
    main()
