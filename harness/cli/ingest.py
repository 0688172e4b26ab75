"""`ingest`: turn results of another trainer into a study."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import DEFAULT_RESULTS, OutOption, ResultsOption
from harness.cli.output import command_line, log, show

Table = Annotated[
    Path,
    typer.Argument(
        metavar="TABLE",
        help="A CSV, TSV, JSON lines or Parquet file, or a folder of them; see docs/ingest.md.",
    ),
]
Study = Annotated[str, typer.Option("--study", metavar="NAME", help="The name of the study.")]
Baseline = Annotated[
    list[str] | None,
    typer.Option(
        "--baseline",
        metavar="LABEL",
        help="The entry that others are compared with; AXIS=LABEL, once for each axis, if columns "
        "other than `entry` distinguish the runs.",
    ),
]
Margins = Annotated[
    list[str] | None,
    typer.Option(
        "--margin",
        metavar="METRIC=NUMBER",
        help="Differences below it count as equivalent, as in val_loss=0.005; repeatable.",
    ),
]
Superior = Annotated[
    list[str] | None,
    typer.Option(
        "--superiority",
        metavar="METRIC=NUMBER",
        help="Also ask which entries are better by more than this; repeatable.",
    ),
]
Compare = Annotated[
    list[str] | None,
    typer.Option(
        "--compare", metavar="AXIS", help="Ask about this axis, others are context; repeatable."
    ),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option("--ignore", metavar="COLUMN", help="Leave out a column; repeatable."),
]
MissingSeeds = Annotated[
    bool,
    typer.Option(
        "--allow-missing-seeds", help="Accept entries without some seeds: they were never started."
    ),
]
Report = Annotated[bool, typer.Option("--report", help="Also write the report.")]


def ingest(
    table: Table,
    study: Study,
    baseline: Baseline = None,
    margin: Margins = None,
    superiority: Superior = None,
    compare: Compare = None,
    ignore: Ignore = None,
    allow_missing_seeds: MissingSeeds = False,
    report: Report = False,
    results: ResultsOption = DEFAULT_RESULTS,
    out: OutOption = Path("reports"),
) -> None:
    """Turn a table of another trainer's results into a study. Print the command of its report."""
    from harness.ingest import IngestRequest
    from harness.ingest import ingest as write
    from harness.results.store import Store

    store = Store(results)
    request = IngestRequest(
        table=table,
        study=study,
        baseline=baseline or (),
        margins=margin or (),
        superiority=superiority or (),
        compare=compare or (),
        ignore=ignore or (),
        allow_missing_seeds=allow_missing_seeds,
        command=command_line(),
    )
    ingested = write(request, store)
    outcome = "imported" if ingested.is_changed else "unchanged"
    failed = f", {ingested.n_failed} of them failed (nan)" if ingested.n_failed else ""
    entries = "1 entry" if ingested.n_entries == 1 else f"{ingested.n_entries} entries"
    runs = "1 run" if ingested.n_runs == 1 else f"{ingested.n_runs} runs"
    log(f"{study}: {entries}, {runs}{failed}: {outcome}")
    for note in ingested.notes:
        log(f"note: {note}")
    if report:
        from harness.report import write as write_report

        show(write_report(store, study, out) / "report.md")
        return
    option = "" if results == DEFAULT_RESULTS else f" --results {shlex.quote(str(results))}"
    show(f"python -m harness report {study}{option}")
