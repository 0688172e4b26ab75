"""`list`: show the entries of a study."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import SeedsOption, SetOption, StudyFileArgument, WhereOption
from harness.cli.studies import load_study

if TYPE_CHECKING:
    from harness.config import PlannedStudy
    from harness.results.records import RunSpec

HEADERS = ("entry", "seeds", "processes", "parameters", "FLOPs/token", "MiB/rank, estimated")
VARYING_HEADERS = ("steps", "tokens/step")  # shown if they differ by entry
MAX_LISTED_SEEDS = 5


def list_entries(
    study: StudyFileArgument,
    settings: SetOption = None,
    seeds: SeedsOption = None,
    where: WhereOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all runs as JSON.")] = False,
) -> None:
    """Show the entries of a study: parameters, FLOPs per token, estimated memory."""
    planned = load_study(study, settings, seeds, where)
    if as_json:
        _print_json(planned)
    else:
        _print_table(planned)


def _print_json(planned: "PlannedStudy") -> None:
    entries = []
    for spec in planned.runs:
        run = {
            "run_id": spec.run_id,
            "entry": spec.entry,
            "seed": spec.seed,
            "data_seed": spec.order_seed,
            "world_size": spec.launch.world_size,
            "steps": spec.train.steps,
            "tokens_per_step": spec.train.tokens_per_step,
        }
        labels = {axis: choice.label for axis, choice in spec.axes.items()}
        entries.append(run | labels | spec.expected.model_dump())
    excluded = [{"entry": entry, "reason": reason} for entry, reason in planned.excluded]
    print(json.dumps({"study": planned.name, "entries": entries, "excluded": excluded}, indent=1))


def _print_table(planned: "PlannedStudy") -> None:
    from tabulate import tabulate

    specs: dict[str, list[RunSpec]] = {}
    for spec in planned.runs:
        specs.setdefault(spec.entry, []).append(spec)
    lengths = {(spec.train.steps, spec.train.tokens_per_step) for spec in planned.runs}
    headers = [*HEADERS]
    rows = [_row(entry, runs) for entry, runs in specs.items()]
    if len(lengths) > 1:
        headers += VARYING_HEADERS
        rows = [[*row, *_lengths(runs)] for row, runs in zip(rows, specs.values(), strict=True)]
    alignment = ["left", "left"] + ["right"] * (len(headers) - 2)
    print(tabulate(rows, headers, colalign=alignment, disable_numparse=True))
    entries = "entry" if len(rows) == 1 else "entries"
    runs = "run" if len(planned.runs) == 1 else "runs"
    print(f"\n{len(rows)} {entries}, {len(planned.runs)} {runs}")
    for entry, reason in planned.excluded:
        print(f"excluded: {entry}: {reason}")


def _lengths(runs: "list[RunSpec]") -> list[str | int]:
    train = runs[0].train
    return [f"{train.steps:,}", f"{train.tokens_per_step:,}"]


def _row(entry: str, runs: "list[RunSpec]") -> list[str | int]:
    seeds = " ".join(spec.seed_name for spec in runs)
    if len(runs) > MAX_LISTED_SEEDS:
        seeds = f"{len(runs)} runs"
    cost = runs[0].expected
    memory = "unknown" if cost.memory_bytes is None else f"{cost.memory_bytes / 2**20:,.1f}"
    return [
        entry,
        seeds,
        runs[0].launch.world_size,
        f"{cost.parameters:,}",
        f"{cost.flops_per_token:,.0f}",
        memory,
    ]
