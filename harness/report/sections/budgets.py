"""Comparison at equal budgets, and the cost of reaching a final loss."""

from collections.abc import Iterator

from harness.analysis import budgets, comparability
from harness.analysis.candidates import without_copies
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Block, Code, Emphasis, Heading, Table, join, paragraph, text
from harness.report.formatting import MISSING
from harness.report.sections import Charts, of_shown
from harness.report.tables import (
    Column,
    Record,
    display,
    interval_of,
    records,
    table,
    text_column,
)
from harness.results.records.comparisons import BudgetKind

BUDGETS: dict[BudgetKind, str] = {
    "tokens": "equal tokens",
    "flops": "equal FLOPs",
    "train_s": "equal training time",
    "parameters": "equal parameters",
}

LOST = "lost seeds"  # instead of a rank
SHOW_COST = "{:.3f}".format  # no test is about costs, so that rounding to 1 hides none


def build(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the losses at equal budgets and the costs of the final losses."""
    if summary.rankings:
        yield from _budgets(summary)
    if summary.savings:
        yield from _costs(summary)


def _budgets(summary: Summary) -> Iterator[Block]:
    sizes = text("Entries of equal parameters are within 1 % of the baseline's number. ")
    if summary.study.imported:
        sizes = ()  # their parameters are unknown
    elif all(ranking.budget_kind != "parameters" for ranking in summary.rankings):
        sizes = text(
            "No other entry is within 1 % of the baseline's number of parameters (",
            Code('match_size = "parameters"'),
            " makes them equal). ",
        )
    copies = ""
    if len(without_copies(summary.study)) < len(summary.study.entries):
        copies = (
            "Other parallelisms are not listed, but count in the ranks at equal training time. "
        )
    yield paragraph(
        "Rank and validation loss at an equal budget: the smallest total that any entry used. ",
        sizes,
        copies,
        "Ranks are those of means, and may be noise. Entries that lost seeds which others did not "
        "lose have none.",
    )
    if len({comparability.training_tokens(entry) for entry in summary.study.entries}) > 1:
        yield paragraph(
            "Entries train on different numbers of tokens. A loss in the middle of a longer "
            "training is that of a learning rate that has not decayed yet."
        )
    for context in dict.fromkeys(ranking.context for ranking in summary.rankings):
        if context:
            yield Heading(summary.study.context_title(context))
        leaders = budgets.leaders([row for row in summary.rankings if row.context == context])
        if len(leaders) == 1:
            yield paragraph(Code(next(iter(leaders))), " has the lowest mean under every budget.")
        else:
            by_leader = []
            for label, kinds in leaders.items():
                budget_names = ", ".join(BUDGETS[kind] for kind in kinds)
                by_leader.append(text(Code(label), f" at {budget_names}"))
            depends = Emphasis("The lowest mean depends on the budget:")
            yield paragraph(depends, " ", join(by_leader, "; "), ".")
        yield _ranks(summary, context)


def _costs(summary: Summary) -> Iterator[Block]:
    margin = summary.savings[0].margin
    yield paragraph(
        "Cost of reaching the baseline's final loss, then the entry's: tokens or training time of "
        f"the baseline over those of the entry, each until it is first within {margin:g} nats. "
        "Above 1 the baseline needs more. Geometric means over seeds, with 95 % t intervals; "
        "bounds (≤, ≥) if a run does not reach the loss."
    )
    columns = [
        text_column("entry"),
        Column("seeds that reach it", _seeds_that_reach),
        _ratio_column("tokens ÷", "tokens_ratio", "at_most"),
        _ratio_column("training time ÷", "train_time_ratio", "at_most"),
        _ratio_column("tokens ÷, entry's loss", "tokens_ratio_at_entry_loss", "at_least"),
        _ratio_column(
            "training time ÷, entry's loss", "train_time_ratio_at_entry_loss", "at_least"
        ),
    ]
    yield display(
        "Cost of reaching a final loss", of_shown(summary, summary.tables["savings"]), columns
    )


def _ratio_column(title: str, name: str, bound: str) -> Column:
    """Return a column of ratios with intervals, or with the bound that `bound` names."""
    sign = {"at_most": "≤", "at_least": "≥"}[bound]

    def cell(row: Record) -> str:
        limit = row[f"{name}_{bound}"]
        if limit is not None:
            return f"{sign} {SHOW_COST(limit)}"
        return formatting.interval(*interval_of(row, name), SHOW_COST)

    return Column(title, cell)


def _ranks(summary: Summary, context: str) -> Table:
    titles = {}
    cells: dict[str, dict[str, str]] = {}
    frame = summary.tables["rankings"]
    for row in records(frame[frame["context"].fillna("") == context]):
        kind = row["budget_kind"]
        titles[kind] = f"{BUDGETS[kind]} ({_budget(row)})"
        loss = formatting.number(row["val_loss"], formatting.fixed)
        cells.setdefault(row["entry"], {})[kind] = f"{row['rank']}. {loss}"
    lost: dict[str, list[str]] = {}
    for ranking in summary.rankings:
        for label in ranking.lost:
            lost.setdefault(label, []).append(ranking.budget_kind)
    rows = []
    for entry in without_copies(summary.study):
        if entry.done and summary.study.context_name(entry) == context:
            ranks = cells.get(entry.label, {})
            if "tokens" in ranks and not summary.study.imported:
                ranks.setdefault("parameters", "different size")
            for kind in lost.get(entry.label, ()):
                ranks[kind] = LOST
            rows.append([entry.label, *(ranks.get(kind, MISSING) for kind in titles)])
    numeric = list(titles.values())
    return table("Rank and validation loss at equal budgets", ["entry", *numeric], rows, numeric)


def _budget(row: Record) -> str:
    budget = row["budget"]
    shown = f"{budget:,.0f}" if budget < 1e7 else f"{budget:.3g}"
    return f"{shown} s" if row["budget_kind"] == "train_s" else shown


def _seeds_that_reach(row: Record) -> str:
    """Return 2 of 3; a lost seed did not reach the loss."""
    n_reached = len(row["seeds"])
    n_lost = len(row["lost_seeds"])
    lost = f" ({n_lost} lost)" if n_lost else ""
    return f"{n_reached} of {n_reached + len(row['not_reached']) + n_lost}{lost}"
