"""Whether each parallelism reproduces the training of a single process."""

from collections.abc import Iterator

import pandas as pd

from harness.analysis.equivalence import N_FIRST, TOLERANCES, world_size
from harness.analysis.metrics import PARALLELISM
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Block, Code, paragraph
from harness.report.sections import Charts, reason_list
from harness.report.tables import Column, display, number_column, records, text_column

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
    tolerance = TOLERANCES["bf16" if "bf16" in precisions else "fp32"]
    yield paragraph(
        "Each parallel run is compared with the run of the same seed that differs only in the "
        "parallelism: with a single process if there is one, else with the baseline's parallelism. "
        "Throughput is reported only if the initial parameters are bitwise identical, the loss and "
        f"gradient norm of the first {N_FIRST} steps agree within {tolerance.loss:.0e} and "
        f"{tolerance.grad_norm:.0e} relative (the rounding error of the precision over that many "
        "steps; larger if only communication is rounded to bf16), and all ranks end with identical "
        "parameters. ",
        Code("bitwise"),
        ": all training losses are identical. ",
        Code("DIVERGES"),
        ": the run does not reproduce the single-process run, so no speed is reported. The "
        "deviations are the largest over the seeds, relative for the first steps, else in nats per "
        "token.",
    )
    checks = summary.tables["equivalence"]
    columns = [
        text_column("entry"),
        text_column("against"),
        Column("seeds", lambda row: f"{row['checked']} of {row['size']}", numeric=False),
        Column("verdict", lambda row: summary.results[row["entry"]].equivalence or "", False),
        *(number_column(title, name, formatting.deviation) for name, title in DEVIATIONS.items()),
        *(text_column(title, name) for name, title in FLAGS.items()),
    ]
    yield display(TITLE, _worst(checks), columns)
    yield from reason_list(
        (f"{row['verdict']}: {row['reason']}", f"{row['entry']}-s{row['seed']}")
        for row in records(checks)
        if row["reason"]
    )


def _worst(checks: pd.DataFrame) -> pd.DataFrame:
    """Return a row per entry: the number of checks, the largest deviations, and common flags."""
    checked = checks["verdict"] != "not checked"
    by_entry = checks.assign(checked=checked).groupby("entry", sort=False)
    worst = by_entry.agg(
        {"against": "first", "checked": "sum"}
        | dict.fromkeys(DEVIATIONS, "max")
        | dict.fromkeys(FLAGS, _all)
    )
    return worst.assign(size=by_entry.size()).reset_index()


def _all(flags: pd.Series) -> str:
    if not flags.all():
        return "no"
    return "not recorded" if flags.isna().any() else "yes"
