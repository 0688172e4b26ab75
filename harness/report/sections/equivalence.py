"""Whether each parallelism reproduces the training of a single process."""

from collections.abc import Iterator

import pandas as pd

from harness.analysis.contexts import compared_axes
from harness.analysis.equivalence import N_FIRST, TOLERANCES, world_size
from harness.analysis.metrics import DIVERGES, PARALLELISM
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Block, Code, Emphasis, Text, paragraph, text
from harness.report.formatting import MISSING, count
from harness.report.sections import Charts, reason_list
from harness.report.tables import Column, display, number_column, records, text_column

NOT_CHECKED = "not checked"
TITLE = "Equivalence of parallelisms"
DEVIATIONS = {  # column of equivalence.csv -> title
    "max_rel_loss_dev_first5": f"loss, first {N_FIRST} steps",
    "max_rel_grad_norm_dev_first5": f"gradient norm, first {N_FIRST} steps",
    "max_abs_loss_dev": "loss, all steps",
    "abs_val_loss_dev": "final val loss",
}
FLAGS = {"initial_hash_equal": "same initialization", "ranks_agree": "ranks end equal"}


def build(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the equivalence checks, if any entry uses several processes."""
    study = summary.study
    if study.spec is None:
        return
    several = any(world_size(entry) > 1 for entry in study.entries)
    if len(study.levels.get(PARALLELISM, ())) < 2 and not several:
        return
    if not summary.equivalence:
        yield paragraph("No two runs that differ only in the parallelism are done yet.")
        return
    precisions = {entry.runs[0].resolved.train.precision for entry in study.entries}
    tolerance = max((TOLERANCES[precision] for precision in precisions), key=lambda t: t.loss)
    checks = summary.tables["equivalence"]
    yield paragraph(_outcome(checks))
    yield paragraph(
        "Each parallel run is compared with that of one process (else of the baseline's "
        "parallelism) and the same seed. It passes if the initial parameters are bitwise "
        f"identical, loss and gradient norm of the first {N_FIRST} steps agree within "
        f"{tolerance.loss:.0e} and {tolerance.grad_norm:.0e} relative, and all ranks end with "
        "identical parameters. ",
        Code("bitwise"),
        ": all training losses are identical. ",
        Code("DIVERGES"),
        ": the check fails, and no speed is reported. Deviations are the largest over runs, after "
        "the first steps in nats per token.",
    )
    columns = [
        *(number_column(title, name, formatting.deviation) for name, title in DEVIATIONS.items()),
        *(text_column(title, name) for name, title in FLAGS.items()),
    ]
    checked = Column("checked", lambda row: f"{row['checked']} of {row['size']}", numeric=False)
    if len(summary.compared_contexts) > 1:
        axes = " · ".join(compared_axes(study))
        statuses = _statuses_by_context(summary)
        verdict = Column("worst", lambda row: statuses[row["context"]], numeric=False)
        columns = [text_column(axes, "context"), checked, verdict, *columns]
        yield display(TITLE, _worst(_with_context(summary, checks), "context"), columns)
    else:
        verdict = Column(
            "verdict", lambda row: summary.results[row["entry"]].equivalence or "", numeric=False
        )
        columns = [text_column("entry"), text_column("against"), checked, verdict, *columns]
        yield display(TITLE, _worst(checks, "entry"), columns)
    yield from reason_list(
        (f"{row['verdict']}: {row['reason']}", f"{row['entry']}-s{row['seed']}")
        for row in records(checks)
        if row["reason"]
    )


def _outcome(checks: pd.DataFrame) -> Text:
    """Return how many checks passed and failed, and how many were not possible."""
    counts = checks["verdict"].value_counts()
    n_failed = int(counts.get(DIVERGES, 0))
    n_unchecked = int(counts.get(NOT_CHECKED, 0))
    n_passed = len(checks) - n_failed - n_unchecked
    runs = count(len(checks), "parallel run")
    if n_passed == len(checks):
        return text(Emphasis("Passed:"), f" all {runs} train the same model as their reference.")
    parts = [f"{n_passed} of {runs} pass"]
    parts += [f"{n_failed} fail"] if n_failed else []
    parts += [f"{n_unchecked} not checked"] if n_unchecked else []
    return text(Emphasis("Failed:" if n_failed else "Incomplete:"), f" {', '.join(parts)}.")


def _with_context(summary: Summary, checks: pd.DataFrame) -> pd.DataFrame:
    """Return the checks with the title of the context of each."""
    axes = compared_axes(summary.study)
    titles = {
        entry.label: summary.study.title_of({axis: entry.axes[axis] for axis in axes})
        for entry in summary.study.entries
    }
    return checks.assign(context=checks["entry"].map(titles))


def _statuses_by_context(summary: Summary) -> dict[str, str]:
    """Return the worst verdict of each context by its title."""
    return {
        summary.study.title_of(row.levels): row.equivalence or MISSING
        for row in summary.compared_contexts
    }


def _worst(checks: pd.DataFrame, by: str) -> pd.DataFrame:
    """Return a row per entry or context: the number of checks, largest deviations, common flags."""
    checked = checks["verdict"] != NOT_CHECKED
    groups = checks.assign(checked=checked).groupby(by, sort=False)
    worst = groups.agg(
        {"against": "first", "checked": "sum"}
        | dict.fromkeys(DEVIATIONS, "max")
        | dict.fromkeys(FLAGS, _all)
    )
    return worst.assign(size=groups.size()).reset_index()


def _all(flags: pd.Series) -> str:
    if not flags.all():
        return "no"
    return "not recorded" if flags.isna().any() else "yes"
