"""Comparison at equal budgets, and the cost of reaching the baseline's final loss."""

from harness.analysis import budgets
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import (
    Block,
    Code,
    Emphasis,
    Paragraph,
    Section,
    Table,
    join,
    paragraph,
    text,
)
from harness.report.sections import Charts
from harness.report.tables import Column, Record, display, interval_column, records, table
from harness.results.records.study_summary import BudgetKind, Ranking

BUDGETS: dict[BudgetKind, str] = {
    "tokens": "equal tokens",
    "flops": "equal FLOPs",
    "train_s": "equal training time",
    "parameters": "equal parameters",
}


def build(summary: Summary, charts: Charts) -> Section | None:
    """Return the losses at equal budgets and the savings over the baseline."""
    rankings = summary.rankings
    if not rankings:
        return None
    if any(ranking.budget_kind == "parameters" for ranking in rankings):
        sizes = text("Entries of equal parameters are within 1 % of the baseline's number. ")
    else:
        sizes = text(
            "No other entry is within 1 % of the baseline's number of parameters (",
            Code('match_size = "parameters"'),
            " makes them equal). ",
        )
    method = text(
        "Rank and validation loss of each entry at an equal budget (the smallest total that any "
        "entry used), linearly interpolated between evaluations. ",
        sizes,
        "Entries that differ only in parallelism have the same loss at equal tokens, so they are "
        "compared by training time only.",
    )
    blocks: list[Block] = [paragraph(method), _leaders(rankings), _ranks(summary)]
    if summary.savings:
        blocks += [
            paragraph(
                "Cost of reaching the baseline's final loss: 1.12 means 1.12 times fewer tokens, "
                "or less training time, than the baseline. Geometric means over the seeds that "
                "reach it, with 95 % t intervals."
            ),
            _savings(summary),
        ]
    return Section("budgets", "Equal budgets", tuple(blocks))


def _leaders(rankings: list[Ranking]) -> Paragraph:
    leaders = budgets.leaders(rankings)
    if len(leaders) == 1:
        return paragraph(Code(next(iter(leaders))), " leads under every budget.")
    by_leader = []
    for label, kinds in leaders.items():
        budget_names = ", ".join(BUDGETS[kind] for kind in kinds)
        by_leader.append(text(Code(label), f" at {budget_names}"))
    return paragraph(Emphasis("The leader depends on the budget:"), " ", join(by_leader, "; "), ".")


def _ranks(summary: Summary) -> Table:
    titles = {}
    cells: dict[str, dict[str, str]] = {}
    for row in records(summary.tables["rankings"]):
        kind = row["budget_kind"]
        titles[kind] = f"{BUDGETS[kind]} ({_budget(row)})"
        loss = formatting.mean(row["val_loss"], row["val_loss_low"], row["val_loss_high"])
        cells.setdefault(row["entry"], {})[kind] = f"{row['rank']}. {loss}"
    rows = []
    for entry in summary.study.entries:
        if entry.done:
            ranks = cells.get(entry.label, {})
            rows.append([entry.label, *(_rank(ranks, kind) for kind in titles)])
    return table(
        "Rank and validation loss at equal budgets",
        ["entry", *titles.values()],
        rows,
        numeric=list(titles.values()),
    )


def _rank(ranks: dict[str, str], kind: str) -> str:
    if kind in ranks:
        return ranks[kind]
    return "different size" if kind == "parameters" and "tokens" in ranks else formatting.MISSING


def _budget(row: Record) -> str:
    budget = row["budget"]
    shown = f"{budget:,.0f}" if budget < 1e7 else f"{budget:.3g}"
    return f"{shown} s" if row["budget_kind"] == "train_s" else shown


def _savings(summary: Summary) -> Table:
    return display(
        "Cost of reaching the baseline's final loss",
        summary.tables["savings"],
        [
            Column("entry", lambda row: row["entry"], numeric=False),
            Column("seeds that reach it", _seeds_that_reach),
            interval_column("tokens ÷", "tokens_ratio", formatting.ratio),
            interval_column("training time ÷", "train_time_ratio", formatting.ratio),
        ],
    )


def _seeds_that_reach(row: Record) -> str:
    n_reached = len(row["seeds"])
    return f"{n_reached} of {n_reached + len(row['not_reached'])}"
