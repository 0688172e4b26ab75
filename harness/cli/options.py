"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

import harness
from harness.cli.output import show

DEFAULT_RESULTS = Path("results")

StudyFileArgument = Annotated[Path, typer.Argument(metavar="STUDY.toml", help="A study file.")]
StudyArgument = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study file, or the name of a study.")
]
ResultsOption = Annotated[
    Path, typer.Option("--results", metavar="DIR", help="The folder of the results.")
]
OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write to.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting; repeatable."),
]
SeedsOption = Annotated[
    str | None, typer.Option("--seeds", metavar="0,1", help="Use these seeds, not the study's.")
]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="AXIS=NAME",
        help="Select entries by a label, variant or value of an axis, as in size=S or "
        "train.lr=0.001, or by several: AXIS=NAME,NAME; repeatable.",
    ),
]

TrustCodeOption = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Run the files of variants that the checkpoint names outside of this program.",
    ),
]


def _print_version(requested: bool) -> None:
    if requested:
        show(harness.__version__)
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version),
]
