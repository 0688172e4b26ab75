"""Breakdown of the step time into phases."""

from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Section, paragraph
from harness.report.sections import Charts, chart_blocks
from harness.report.tables import table
from harness.results.records import PHASES
from harness.results.records.study_summary import PhaseTimes

METHOD = (
    "Milliseconds of a step, mean over ranks, measured on a few extra steps after the last one "
    "(their results are discarded). Waiting is exposed communication: time a rank blocks in a "
    "collective, whether on data or on a slower rank. Overlapped communication is not counted. "
    "Waiting is excluded from the other phases. It cannot be measured on CUDA, where waits are "
    "part of each phase."
)


def build(summary: Summary, charts: Charts) -> Section | None:
    """Return the phases of a step, if they were measured."""
    results = summary.results.values()
    if not any(result.phases for result in results):
        return None
    rows = []
    for result in results:
        label = result.entry
        phases = result.phases
        if label in summary.diverging:
            rows.append([label, *[formatting.NO_SPEED] * (len(PHASES) + 2)])
        elif phases:
            times = [_ms(seconds) for seconds in phases.by_name.values()]
            share = formatting.percent(phases.waiting_fraction)
            rows.append([label, *times, share, _range(phases)])
    titles = ["entry", *PHASES, "waiting, fraction", "waiting, by rank"]
    return Section(
        "step-breakdown",
        "Step time breakdown",
        (
            paragraph(METHOD),
            table("Milliseconds of a step by phase", titles, rows, numeric=titles[1:]),
            *chart_blocks(charts, "phases"),
        ),
    )


def _range(phases: PhaseTimes) -> str:
    """Return the shortest and longest waiting time of a rank."""
    waits = phases.waiting_by_rank_s
    shortest = _ms(min(waits, default=None))
    longest = _ms(max(waits, default=None))
    return shortest if shortest == longest else f"{shortest} to {longest}"


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return formatting.MISSING
    return formatting.significant_figures(formatting.SECONDS_TO_MS * seconds)
