"""`plan`: estimate the seeds that a difference needs."""

from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import DEFAULT_RESULTS, ResultsOption, StudyArgument
from harness.cli.studies import study_name
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.analysis.seed_plan import SeedPlan

MAX_ENTRIES = 100_000
MAX_EFFECT = 100.0  # nats; no loss is as large

EffectSize = Annotated[
    float,
    typer.Option("--effect-size", metavar="NATS", help="The difference in validation loss."),
]
FractionalDesign = Annotated[
    int | None,
    typer.Option(
        "--fractional-design",
        metavar="N",
        min=1,
        max=MAX_ENTRIES,
        help="Also print N entries from which all main effects can be estimated.",
    ),
]


def plan(
    study: StudyArgument,
    effect_size: EffectSize,
    fractional_design: FractionalDesign = None,
    results: ResultsOption = DEFAULT_RESULTS,
) -> None:
    """Estimate from existing results how many seeds detect a difference, and their cost."""
    from harness.analysis import dataset, seed_plan
    from harness.analysis import fractional_design as designs
    from harness.results.store import Store

    if not 0 < effect_size <= MAX_EFFECT:
        allowed = f"must be above 0 and at most {MAX_EFFECT:g}, in nats per token"
        raise UserError(f"--effect-size {effect_size:g}: {allowed}")
    data = dataset.read(Store(results), study_name(study))
    estimate = seed_plan.plan_seeds(data, effect_size)
    if estimate is None:
        pilot = f"run a pilot: python -m harness run {study} --seeds 0,1,2"
        if data.imported:
            pilot = "import a table with more seeds of each entry"
        raise UserError(
            f"{data.name}: no entry shares two seeds with its baseline, so the noise cannot be "
            f"estimated; {pilot}"
        )
    _print_estimate(estimate)
    if fractional_design is None:
        return
    try:
        entries = designs.fractional_design(data.levels, data.baseline, fractional_design)
    except ValueError as error:
        raise UserError(f"--fractional-design {error}") from error
    print(f"{fractional_design} entries that identify all main effects, without interactions:")
    print(*("-".join(labels.values()) for labels in entries), sep="\n")


def _print_estimate(estimate: "SeedPlan") -> None:
    from harness.analysis.significance import MAX_SEEDS
    from harness.launch.progress import duration

    bounds = (estimate.seeds, estimate.seeds_low, estimate.seeds_high)
    seeds, low, high = (f"more than {MAX_SEEDS:,}" if n is None else f"{n:,}" for n in bounds)
    cost = f"{duration(estimate.hours_per_seed * 3600)} for each seed of all entries"
    if not estimate.hours_per_seed:
        cost = "unknown, because no run states its time"
    elif estimate.hours is not None:
        cost += f", {duration(estimate.hours * 3600)} for the missing seeds"
    print(
        f"noise: paired differences have a standard deviation of {estimate.noise:.4g} nats "
        f"({estimate.degrees_of_freedom} degrees of freedom, {estimate.n_compared} comparisons)",
        f"available: {estimate.seeds_done} seeds detect "
        f"{estimate.minimum_detectable_effect:.4g} nats with 80 % power",
        f"needed: {seeds} seeds detect {estimate.min_difference:g} nats with 80 % power "
        f"({low} to {high}, because the noise is itself an estimate)",
        f"cost: {cost}",
        sep="\n",
    )
