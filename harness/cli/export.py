"""`export`: write results in the format of other tools."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from harness.cli.options import DEFAULT_RESULTS, OutOption, ResultsOption, StudyArgument
from harness.cli.output import log, show
from harness.cli.studies import study_name

Format = Literal["csv", "latex", "parquet", "tensorboard", "wandb", "mlflow"]


def export(
    study: StudyArgument,
    to: Annotated[Format, typer.Option("--to", help="The format.")],
    results: ResultsOption = DEFAULT_RESULTS,
    out: OutOption = Path("exports"),
) -> None:
    """Write the results for other tools. Print the folder and how to open it."""
    from harness.analysis import dataset
    from harness.analysis.study_frames import has_recorded
    from harness.export import export as write
    from harness.results.store import Store

    data = dataset.read(Store(results), study_name(study))
    folder, instructions = write(data, to, out)
    for damaged in data.unreadable:
        log(f"left out: {damaged.name}: {damaged.why}")
    omitted = {
        "runs with other settings": data.left_out,
        "runs replaced by newer ones": data.superseded,
        "runs without recorded steps": sum(not has_recorded(run) for run in data.runs),
    }
    for kind, count in omitted.items():
        if count:
            log(f"left out: {count:,} {kind}")
    show(folder)
    if instructions:
        show(instructions)
