"""Print the answer of a study in the terminal, where `run` ends."""

import shlex
import shutil
import sys
from pathlib import Path

from harness.cli.options import DEFAULT_RESULTS
from harness.cli.output import log
from harness.results.store import Store

MAX_WIDTH = 120  # columns


def show(store: Store, study: str, file: Path) -> dict[str, str]:
    """Print the first screen of the report to stdout, and the command that writes the report.

    Return why results cannot be read, by run id. A failure is logged and never raised: the command
    is about the runs.
    """
    unreadable: dict[str, str] = {}
    try:
        from harness.analysis import dataset, followed
        from harness.report import first_screen

        data = dataset.read(store, study, following=followed.read(file))
        unreadable = {run.name: run.why for run in data.unreadable}
        width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
        encoding = sys.stdout.encoding or "ascii"
        print(first_screen(data, width, encoding), flush=True)
    except Exception as error:
        log(f"no answer to show: {' '.join(str(error).split())}")
    arguments = ["python", "-m", "harness", "report", str(file)]
    if store.root != DEFAULT_RESULTS:
        arguments += ["--results", str(store.root)]
    log(f"write the report: {shlex.join(arguments)}")
    return unreadable
