"""Runs that are not done: their reasons and the last lines of their logs."""

import re
from collections.abc import Iterable

from harness.analysis.summary import Summary
from harness.report.document import Block, CodeBlock, Details, Section, paragraph
from harness.report.formatting import MISSING, count
from harness.report.sections import Charts
from harness.report.tables import table
from harness.results.run_data import RunData

MAX_LOGS = 10
MAX_WIDTH = 300  # characters of a line of a log
CONTROL_CHARACTERS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f]")


def build(summary: Summary, charts: Charts) -> Section | None:
    """Return every run that is not done, and the logs of those that failed."""
    runs = [run for run in summary.study.runs if run.status != "done"]
    if not runs:
        return None
    rows = [
        [run.run_id, run.status, run.reason or MISSING, run.message or MISSING, _progress(run)]
        for run in runs
    ]
    titles = ["run", "status", "reason", "message", "steps"]
    blocks: list[Block] = [table("Runs that are not done", titles, rows)]
    failed = [run for run in runs if run.status in ("failed", "interrupted") and run.log_tail]
    for run in failed[:MAX_LOGS]:
        blocks.append(Details(f"Last lines of the log of {run.run_id}", (_log(run.log_tail),)))
    if len(failed) > MAX_LOGS:
        n_more = count(len(failed) - MAX_LOGS, "further run")
        blocks.append(paragraph(f"The logs of {n_more} are in the results folder."))
    return Section("failures", "Unfinished runs", tuple(blocks))


def _progress(run: RunData) -> str:
    return f"{len(run.steps):,} of {run.spec.train.steps:,}"


def _log(lines: Iterable[str]) -> CodeBlock:
    """Return the lines without control characters, cut to a width."""
    plain = [CONTROL_CHARACTERS.sub("", line)[:MAX_WIDTH] for line in lines]
    return CodeBlock("\n".join(plain))
