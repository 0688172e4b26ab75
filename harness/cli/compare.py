"""`compare`: compare two studies, or one study at two commits."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import DEFAULT_RESULTS, OutOption, ResultsOption
from harness.cli.output import show
from harness.cli.studies import study_name

SIDE_HELP = "A study's name or file, a folder results/STUDY, or STUDY@COMMIT."


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=SIDE_HELP)],
    b: Annotated[str, typer.Argument(metavar="B", help="The same.")],
    results: ResultsOption = DEFAULT_RESULTS,
    out: OutOption = Path("reports"),
) -> None:
    """Compare B with A: losses, throughput, memory, environment. Print the report's path."""
    from harness.report.compare import read, write
    from harness.results.store import Store

    first, second = read(a, b, Store(results), study_name)
    show(write(first, second, out) / "report.md")
