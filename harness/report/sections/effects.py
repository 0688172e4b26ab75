"""Sources of differences: the effects of the axes, and the noise between seeds."""

from collections.abc import Iterator, Sequence
from functools import partial

from harness.analysis import comparability
from harness.analysis.dataset import StudyResults
from harness.analysis.pairs import METRIC_NAMES
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Block, Code, Heading, paragraph
from harness.report.sections import Charts, chart_blocks
from harness.report.tables import (
    Column,
    Record,
    display,
    interval_column,
    interval_of,
    number_column,
    text_column,
)
from harness.results.records.comparisons import MetricTests

SOURCES = {"init": "initialization", "data": "data order", "rest": "their interaction and the rest"}
QUANTITIES = {
    "val_loss": "final validation loss",
    "val_loss_difference": "difference from the baseline",
}
MAX_MISSING = 6  # combinations without runs that are named
METHOD = (
    "A main effect is the mean change from the baseline's level, over all levels of the other "
    "axes. An interaction is the change that two levels cause together beyond the sum of each. "
    "Each is tested by a t test over seeds. p-values (Holm) and 95 % intervals cover all main "
    "effects, or all interactions, of a table. Losses are those under the baseline's parallelism."
)
EXACT_METHOD = (
    "Peak memory does not vary between seeds. Runs of the same entry are then one observation, "
    "and an effect is exact: the mean change over the combinations of this study, without a "
    "p-value or an interval."
)
CONTEXT_METHOD = (
    "Verdicts over contexts are in the section on pooled differences. Effects of the context axes "
    "themselves, relative to their first level, are listed apart and are not tested; each has the "
    "t interval of its own values. They are left out if the losses of contexts are not comparable."
)


def effects(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the main effects and interactions on each metric."""
    tested = [tests for tests in summary.metric_tests.values() if tests.main_effects]
    if len(summary.study.varying()) < 2 or not tested:
        return
    yield paragraph(METHOD)
    if summary.study.contexts:
        yield paragraph(CONTEXT_METHOD)
    if comparability.unit_of_all(summary.study) != "nats per token":
        yield paragraph(
            "Effects on the validation loss are those of the entries whose losses are comparable "
            "with their baseline's, in nats per token of ",
            Code(summary.study.entries[0].runs[0].tokenizer or "of another trainer"),
            ".",
        )
    for tests in tested:
        yield from _metric(summary, tests)
        yield from chart_blocks(charts, f"effects_{tests.quantity}")


def _metric(summary: Summary, tests: MetricTests) -> Iterator[Block]:
    is_loss = tests.quantity == "val_loss"
    name = METRIC_NAMES[tests.quantity]
    yield Heading(f"{name.capitalize()} ({'nats per token' if is_loss else '%'})")
    design = tests.design
    yield paragraph(
        f"Estimated from {formatting.count(design.runs, 'run')} with "
        f"{formatting.count(design.seeds, 'seed')}."
    )
    methods = {effect.method for effect in (*tests.main_effects, *tests.interactions)}
    if "exact" in methods and tests.quantity == "peak_memory":
        yield paragraph(EXACT_METHOD)

    def change(row: Record) -> str:
        if row["estimate"] is None:
            return "not identifiable"
        show = formatting.difference if is_loss else formatting.change
        return show(*interval_of(row, "estimate"))

    frame = summary.tables["effects"]
    frame = frame[frame["quantity"] == tests.quantity]
    if summary.study.contexts and len(summary.study.asked) == 1:
        frame = frame[frame["effect"] != "main"]  # they are the pooled differences
    n_open = 0
    if not is_loss:
        is_open = (frame["effect"] == "interaction") & (frame["verdict"] == "unresolved")
        n_open = int(is_open.sum())
        frame = frame[~is_open]
    of_context = frame["effect"] == "context"
    columns = [
        Column("effect", partial(_levels, summary.study), numeric=False),
        text_column("kind", "effect"),
        Column("verdict", _verdict, numeric=False),
        Column("change", change),
        number_column("p (Holm)", "p_holm", formatting.p_value),
    ]
    yield display(f"Effects on {name}", frame[~of_context], columns)
    if n_open:
        n_others = formatting.count(n_open, "other interaction")
        verb = "is" if n_open == 1 else "are"
        yield paragraph(f"{n_others} {verb} unresolved: see ", Code("tables/effects.csv"), ".")
    if of_context.any():
        columns = [columns[0], columns[3]]
        yield display(f"Effects of the context on {name}", frame[of_context], columns)
    if design.missing:
        cells = ", ".join(_cell(summary.study, cell) for cell in design.missing[:MAX_MISSING])
        assumed = ""
        if len(summary.study.varying()) > 2:
            assumed = " The others assume that there is no interaction of three axes."
        yield paragraph(
            f"No comparable runs of {cells}. Effects that need them are not estimated.{assumed}"
        )


def _verdict(row: Record) -> str:
    """Return the verdict, or why there is none."""
    if row["seed_has_no_effect"]:
        return "no seed changes it"
    verdict = row["verdict"] or formatting.MISSING
    lost = row["lost_seeds"]
    return f"{verdict} (lost {formatting.count(len(lost), 'seed')})" if lost else verdict


def _levels(study: StudyResults, row: Record) -> str:
    shown = []
    for level in row["levels"]:
        axis, _, label = level.partition("=")
        shown.append(f"{axis} {study.title(axis, label)}")
    return " with ".join(shown)


def _cell(study: StudyResults, labels: Sequence[str]) -> str:
    """Return the titles of a combination of levels, which are in the order of the axes."""
    titles = []
    axes = iter(study.varying())
    for label in labels:
        axis = next((name for name in axes if label in study.levels[name]), "")
        titles.append(study.title(axis, label))
    return " × ".join(titles)


def variance(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the variance components, if initialization and data seeds are crossed."""
    statuses: list[str] = []
    for entry in summary.study.entries:
        statuses += [run.status for run in entry.crossed]
    if not statuses:
        return
    yield paragraph(
        f"{formatting.count(len(statuses), 'run')} ({statuses.count('done')} done) combine the "
        "initialization of one seed with the data order of another. They are not independent of "
        "the other runs, so only this section uses them. Standard deviations are in nats per "
        "token, from a two-way crossed random-effects model with 95 % intervals (Williams 1962), "
        "pooled over the entries under the baseline's parallelism for which every pair of seeds is "
        "done."
    )
    if "variance" not in summary.tables:
        yield paragraph("No entry has every pair of seeds done yet.")
        return
    columns = [
        Column("noise of", lambda row: QUANTITIES[row["quantity"]], numeric=False),
        Column("source", lambda row: SOURCES[row["source"]], numeric=False),
        number_column("fraction of the variance", "fraction", _whole_percent),
        interval_column("standard deviation", "sd", formatting.fixed),
        Column("entries", lambda row: f"{len(row['entries'])}"),
        Column("seeds", lambda row: f"{len(row['seeds'])} × {len(row['seeds'])}"),
    ]
    yield display("Variance components", summary.tables["variance"], columns)


def _whole_percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"
