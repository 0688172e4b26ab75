"""Comparison at equal budgets, and the cost of reaching the baseline's final loss."""

from collections.abc import Iterator

from harness.analysis import budgets, comparability
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Block, Code, Emphasis, Heading, Table, join, paragraph, text
from harness.report.formatting import MISSING
from harness.report.sections import Charts
from harness.report.tables import (
    Column,
    Record,
    display,
    interval_column,
    interval_of,
    records,
    table,
    text_column,
)
from harness.results.records.study_summary import BudgetKind

BUDGETS: dict[BudgetKind, str] = {
    "tokens": "equal tokens",
    "flops": "equal FLOPs",
    "train_s": "equal training time",
    "parameters": "equal parameters",
}


def build(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the losses at equal budgets and the savings over the baseline."""
    if not summary.rankings:
        return
    sizes = text("Entries of equal parameters are within 1 % of the baseline's number. ")
    if summary.study.imported:
        sizes = ()  # their parameters are unknown
    elif all(ranking.budget_kind != "parameters" for ranking in summary.rankings):
        sizes = text(
            "No other entry is within 1 % of the baseline's number of parameters (",
            Code('match_size = "parameters"'),
            " makes them equal). ",
        )
    yield paragraph(
        "Rank and validation loss of each entry at an equal budget (the smallest total that any "
        "entry used), linearly interpolated between evaluations. ",
        sizes,
        "Entries that differ only in parallelism have the same loss at equal tokens, so they are "
        "compared by training time only.",
    )
    if len({comparability.training_tokens(entry) for entry in summary.study.entries}) > 1:
        yield paragraph(
            "Entries train on different numbers of tokens. A loss in the middle of a longer "
            "training is that of a learning rate that has not decayed yet."
        )
    for context in dict.fromkeys(ranking.context for ranking in summary.rankings):
        if context:
            yield Heading(context)
        leaders = budgets.leaders([row for row in summary.rankings if row.context == context])
        if len(leaders) == 1:
            yield paragraph(Code(next(iter(leaders))), " leads under every budget.")
        else:
            by_leader = []
            for label, kinds in leaders.items():
                budget_names = ", ".join(BUDGETS[kind] for kind in kinds)
                by_leader.append(text(Code(label), f" at {budget_names}"))
            depends = Emphasis("The leader depends on the budget:")
            yield paragraph(depends, " ", join(by_leader, "; "), ".")
        yield _ranks(summary, context)
    if summary.savings:
        yield paragraph(
            "Cost of reaching the baseline's final loss: 1.12 means 1.12 times fewer tokens, "
            "or less training time, than the baseline. Geometric means over the seeds that "
            "reach it, with 95 % t intervals."
        )
        columns = [
            text_column("entry"),
            Column("seeds that reach it", _seeds_that_reach),
            interval_column("tokens ÷", "tokens_ratio", formatting.ratio),
            interval_column("training time ÷", "train_time_ratio", formatting.ratio),
        ]
        caption = "Cost of reaching the baseline's final loss"
        yield display(caption, summary.tables["savings"], columns)


def _ranks(summary: Summary, context: str) -> Table:
    titles = {}
    cells: dict[str, dict[str, str]] = {}
    frame = summary.tables["rankings"]
    for row in records(frame[frame["context"].fillna("") == context]):
        kind = row["budget_kind"]
        titles[kind] = f"{BUDGETS[kind]} ({_budget(row)})"
        loss = formatting.mean(*interval_of(row, "val_loss"))
        cells.setdefault(row["entry"], {})[kind] = f"{row['rank']}. {loss}"
    rows = []
    for entry in summary.study.entries:
        if entry.done and summary.study.context_name(entry) == context:
            ranks = cells.get(entry.label, {})
            if "tokens" in ranks and not summary.study.imported:
                ranks.setdefault("parameters", "different size")
            rows.append([entry.label, *(ranks.get(kind, MISSING) for kind in titles)])
    numeric = list(titles.values())
    return table("Rank and validation loss at equal budgets", ["entry", *numeric], rows, numeric)


def _budget(row: Record) -> str:
    budget = row["budget"]
    shown = f"{budget:,.0f}" if budget < 1e7 else f"{budget:.3g}"
    return f"{shown} s" if row["budget_kind"] == "train_s" else shown


def _seeds_that_reach(row: Record) -> str:
    n_reached = len(row["seeds"])
    return f"{n_reached} of {n_reached + len(row['not_reached'])}"
