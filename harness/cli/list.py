"""`list`: show the entries of a study."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.isolation import isolate_study
from harness.cli.options import (
    DEFAULT_RESULTS,
    ResultsOption,
    SeedsOption,
    SetOption,
    StudyFileArgument,
    WhereOption,
)
from harness.cli.output import show
from harness.cli.studies import load_study, refuse_options

if TYPE_CHECKING:
    from harness.config import PlannedStudy, TuningPlan
    from harness.results.records import RunSpec
    from harness.results.store import Store

HEADERS = (
    "entry",
    "title",
    "seeds",
    "processes",
    "parameters",
    "FLOPs/token",
    "MiB/rank, estimated",
)
VARYING_HEADERS = ("steps", "tokens/step")  # shown if they differ by entry
MAX_LISTED_SEEDS = 5


def list_entries(
    study: StudyFileArgument,
    settings: SetOption = None,
    seeds: SeedsOption = None,
    where: WhereOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all runs as JSON.")] = False,
    results: ResultsOption = DEFAULT_RESULTS,
) -> None:
    """Show the entries of a study: parameters, FLOPs per token, estimated memory.

    An imported study is given by its name, and its entries are those of its table.
    """
    if study.suffix != ".toml":
        from harness.results.store import Store

        if Store(results).is_imported(str(study)):
            reason = "only for a study file: these entries are those of a table"
            refuse_options(study, reason, set=settings, seeds=seeds, where=where)
            _list_imported(Store(results), str(study), as_json)
            return
    isolate_study(study, settings)
    planned = load_study(study, settings, seeds, where)
    if as_json:
        _print_json(planned)
    else:
        _print_table(planned)


def _list_imported(store: "Store", study: str, as_json: bool) -> None:
    """Print the entries of a study of another trainer, or its runs as JSON."""
    from tabulate import tabulate

    runs = [run.imported for run in store.runs(study)]
    if as_json:
        show(json.dumps({"study": study, "imported": [run.model_dump() for run in runs]}, indent=1))
        return
    seeds: dict[str, list[str]] = {}
    for run in runs:
        seeds.setdefault(run.entry, []).append(run.seed_name)
    rows = [[entry, " ".join(names)] for entry, names in seeds.items()]
    show(tabulate(rows, ("entry", "seeds"), disable_numparse=True))
    show(f"\n{len(rows)} entries, {len(runs)} runs, imported from another trainer")


def _print_json(planned: "PlannedStudy") -> None:
    from harness.results.titles import of_runs

    titles = of_runs(spec for spec in planned.runs if spec.tuning is None)
    entries = [
        _as_json(spec) | {"title": titles[spec.entry]}
        for spec in planned.runs
        if spec.tuning is None
    ]
    excluded = [{"entry": entry, "reason": reason} for entry, reason in planned.excluded]
    content: dict[str, object] = {
        "study": planned.name,
        "entries": entries,
        "excluded": excluded,
    }
    if planned.looks is not None:
        content["looks"] = planned.looks.model_dump()
    if planned.tuning is not None:
        trials = [_as_json(spec) for spec in planned.runs if spec.tuning is not None]
        content["tuning"] = planned.tuning.settings.model_dump() | {"trials": trials}
    show(json.dumps(content, indent=1))


def _as_json(spec: "RunSpec") -> dict[str, object]:
    run = {
        "run_id": spec.run_id,
        "entry": spec.entry,
        "seed": spec.seed,
        "data_seed": spec.order_seed,
        "world_size": spec.launch.world_size,
        "steps": spec.train.steps,
        "tokens_per_step": spec.train.tokens_per_step,
    }
    if spec.tuning is not None:
        run["settings"] = spec.tuning.settings
    labels = {axis: choice.label for axis, choice in spec.axes.items()}
    return run | labels | spec.expected.model_dump()


def _print_table(planned: "PlannedStudy") -> None:
    from tabulate import tabulate

    from harness.results.records.tuning import TUNING
    from harness.results.titles import of_runs

    specs: dict[str, list[RunSpec]] = {}
    finals = [spec for spec in planned.runs if spec.tuning is None]
    for spec in finals:
        specs.setdefault(spec.entry, []).append(spec)
    titles = of_runs(finals)
    rows = [_row(entry, titles[entry], runs) for entry, runs in specs.items()]
    lengths = {(spec.train.steps, spec.train.tokens_per_step) for spec in finals}
    headers = [*HEADERS]
    if len(lengths) > 1:
        headers += VARYING_HEADERS
        rows = [[*row, *_lengths(runs)] for row, runs in zip(rows, specs.values(), strict=True)]
    alignment = ["left"] * 3 + ["right"] * (len(headers) - 3)
    show(tabulate(rows, headers, colalign=alignment, disable_numparse=True))
    entries = "entry" if len(rows) == 1 else "entries"
    runs = "run" if len(finals) == 1 else "runs"
    show(f"\n{len(rows)} {entries}, {len(finals)} {runs}")
    if planned.looks is not None:
        from harness.cli.look_stages import describe

        show(describe(planned))
    if planned.tuning is not None:
        n_tuned = sum(TUNING in spec.axes for spec in finals)  # not the runs that others start from
        show(_tuning_line(planned.tuning, n_tuned))
    for entry, reason in planned.excluded:
        show(f"excluded: {entry}: {reason}")


def _tuning_line(plan: "TuningPlan", n_tuned: int) -> str:
    """Return how many runs the tuning adds, before and after the settings are chosen."""
    settings = plan.settings
    n_entries = len(plan.selected)
    return (
        f"tuning, before these: {settings.n_runs} trials of each entry, "
        f"{n_entries * settings.n_runs} in all ({settings.method} of {', '.join(settings.axes)}); "
        f"after it: {n_tuned} tuned runs"
    )


def _lengths(runs: "list[RunSpec]") -> list[str | int]:
    train = runs[0].train
    return [f"{train.steps:,}", f"{train.tokens_per_step:,}"]


def _row(entry: str, title: str, runs: "list[RunSpec]") -> list[str | int]:
    seeds = " ".join(spec.seed_name for spec in runs)
    if len(runs) > MAX_LISTED_SEEDS:
        seeds = f"{len(runs)} runs"
    cost = runs[0].expected
    memory = "unknown" if cost.memory_bytes is None else f"{cost.memory_bytes / 2**20:,.1f}"
    return [
        entry,
        title,
        seeds,
        runs[0].launch.world_size,
        f"{cost.parameters:,}",
        f"{cost.flops_per_token:,.0f}",
        memory,
    ]
