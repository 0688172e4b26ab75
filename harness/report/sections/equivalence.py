"""Whether each parallelism reproduces the training of a single process."""

from collections.abc import Iterable

from harness.analysis.equivalence import N_FIRST, TOLERANCES, world_size
from harness.analysis.metrics import PARALLELISM
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import BulletList, Code, Section, Table, code_list, paragraph, text
from harness.report.sections import Charts
from harness.report.tables import Record, records, table

TITLE = "Equivalence of parallelisms"
DEVIATIONS = {  # column of equivalence.csv -> title
    "max_rel_loss_dev_first5": f"loss, first {N_FIRST} steps",
    "max_rel_grad_norm_dev_first5": f"gradient norm, first {N_FIRST} steps",
    "max_abs_loss_dev": "loss, all steps",
    "abs_val_loss_dev": "final val loss",
}


def build(summary: Summary, charts: Charts) -> Section | None:
    """Return the equivalence checks, if any entry uses several processes."""
    study = summary.study
    several = any(world_size(entry) > 1 for entry in study.entries)
    if len(study.levels.get(PARALLELISM, ())) < 2 and not several:
        return None
    if not summary.equivalence:
        nothing = paragraph("No two runs that differ only in the parallelism are done yet.")
        return Section("equivalence", TITLE, (nothing,))
    assert study.spec is not None
    tolerance = TOLERANCES[study.spec.train.precision]
    method = paragraph(
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
    reasons = _reasons(records(summary.tables["equivalence"]))
    blocks = (method, _checks(summary), *((reasons,) if reasons.items else ()))
    return Section("equivalence", TITLE, blocks)


def _checks(summary: Summary) -> Table:
    by_entry: dict[str, list[Record]] = {}
    for record in records(summary.tables["equivalence"]):
        by_entry.setdefault(record["entry"], []).append(record)
    rows = []
    for entry, checks in by_entry.items():
        references = [check["against"] for check in checks if check["against"]]
        n_checked = sum(check["verdict"] != "not checked" for check in checks)
        rows.append(
            [
                entry,
                references[0] if references else formatting.MISSING,
                f"{n_checked} of {len(checks)}",
                summary.results[entry].equivalence or formatting.MISSING,
                *(_largest(checks, name) for name in DEVIATIONS),
                _all(check["initial_hash_equal"] for check in checks),
                _all(check["ranks_agree"] for check in checks),
            ]
        )
    titles = ["entry", "against", "seeds", "verdict", *DEVIATIONS.values()]
    titles += ["same initialization", "ranks end equal"]
    return table(TITLE, titles, rows, numeric=list(DEVIATIONS.values()))


def _largest(checks: Iterable[Record], name: str) -> str:
    known = [check[name] for check in checks if check[name] is not None]
    return formatting.deviation(max(known, default=None))


def _all(flags: Iterable[bool | None]) -> str:
    values = set(flags)
    if False in values:
        return "no"
    return "not recorded" if None in values else "yes"


def _reasons(checks: list[Record]) -> BulletList:
    """List why runs diverge or were not checked, with the runs of each reason."""
    runs: dict[tuple[str, str], list[str]] = {}
    for check in checks:
        if check["reason"]:
            names = runs.setdefault((check["verdict"], check["reason"]), [])
            names.append(f"{check['entry']}-s{check['seed']}")
    items = (
        text(f"{verdict}: {reason}: ", code_list(list(dict.fromkeys(names))), ".")
        for (verdict, reason), names in runs.items()
    )
    return BulletList(tuple(items))
