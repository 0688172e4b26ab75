"""`plan`: estimate the seeds that a difference needs."""

from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import DEFAULT_RESULTS, ResultsOption, StudyArgument
from harness.cli.output import show
from harness.cli.studies import study_name
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.analysis.seed_plan import SeedPlan

MAX_ENTRIES = 100_000
MAX_EFFECT = 100.0  # nats; no loss is as large
SECONDS_PER_HOUR = 3600

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
    from harness.analysis.looks import levels
    from harness.results.store import Store

    if not 0 < effect_size <= MAX_EFFECT:
        allowed = f"must be above 0 and at most {MAX_EFFECT:g}, in nats per token"
        raise UserError(f"--effect-size {effect_size:g}: {allowed}")
    data = dataset.read(Store(results), study_name(study))
    plans = seed_plan.plan_seeds(data, effect_size)
    if not plans:
        pilot = f"run a pilot: python -m harness run {study} --seeds 0,1,2"
        if data.imported:
            pilot = "import a table with more seeds of each entry"
        raise UserError(
            f"{data.name}: no entry shares two seeds with its baseline, so the noise cannot be "
            f"estimated; {pilot}"
        )
    for estimate in plans:
        _print_plan(estimate)
    if data.looks is not None and (data.looks.is_fixed or not data.looks.planned):
        following = levels(len(data.looks.looks) + 1, has_end=False)[-1]
        show(
            f"seeds that are added to these results are an unplanned look, at level {following:.2g}"
        )
    if data.looks is not None and not data.looks.is_fixed:
        kind = "planned looks" if data.looks.planned else "looks, not all planned"
        counts = ", ".join(str(len(look.seeds)) for look in data.looks.looks)
        shown = ", ".join(f"{look.level:.2g}" for look in data.looks.looks)
        show(f"{kind}: at {counts} seeds, levels {shown}; {data.n_complete_looks} complete")
    if fractional_design is None:
        return
    try:
        entries = designs.fractional_design(data.levels, data.baseline, fractional_design)
    except ValueError as error:
        raise UserError(f"--fractional-design {error}") from error
    show(f"{fractional_design} entries that identify all main effects, without interactions:")
    show(*("-".join(labels.values()) for labels in entries))


def _print_plan(estimate: "SeedPlan") -> None:
    from harness.report.formatting import seeds_needed

    noise = estimate.noise
    needed = seeds_needed(estimate.seeds, estimate.seeds_low, estimate.seeds_high, unit="seeds")
    lines = [f"context: {estimate.context}"] if estimate.context else []
    lines += [
        f"noise: paired differences have a standard deviation of {noise.sd:.2g} nats "
        f"({noise.degrees_of_freedom} degrees of freedom, {estimate.n_compared} comparisons)",
        f"available: {estimate.seeds_done} seeds detect "
        f"{estimate.minimum_detectable_effect:.2g} nats with 80 % power",
        f"needed: {needed} to detect {estimate.min_difference:g} nats with 80 % power; the range "
        "is that of the noise, which is itself an estimate",
        *_cost(estimate),
        f"power at level {estimate.alpha:.2g}, for the one entry that differs by so many standard "
        "deviations (sd) or nats:",
        *_power_lines(estimate),
    ]
    show(*lines)


def _cost(estimate: "SeedPlan") -> list[str]:
    from harness.launch.progress import duration

    if estimate.hours_per_seed is None:
        return ["cost: unknown, because no run states its time"]
    each = duration(estimate.hours_per_seed * SECONDS_PER_HOUR)
    line = f"cost: {each} for each seed of the {estimate.n_entries} entries that are compared"
    if estimate.hours is not None:
        line += f", {duration(estimate.hours * SECONDS_PER_HOUR)} for the missing seeds"
    return [line]


def _power_lines(estimate: "SeedPlan") -> list[str]:
    """Return the table of power by number of seeds and effect."""
    *in_sd, _ = estimate.power.columns
    titles = [*(f"{effect:g} sd" for effect in in_sd), f"{estimate.min_difference:g} nats"]
    lines = [" " * 12 + "".join(f"{title:>12}" for title in titles)]
    for n_seeds, row in estimate.power.iterrows():
        cells = "".join(f"{100 * value:>10.0f} %" for value in row)
        lines.append(f"{n_seeds:>6} seeds{cells}")
    return lines
