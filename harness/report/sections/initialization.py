"""Initialization from a checkpoint: which tensors each entry loaded and converted."""

from collections import Counter

from harness.analysis.summary import Summary
from harness.report.document import Section, paragraph
from harness.report.formatting import MISSING
from harness.report.sections import Charts
from harness.report.tables import table
from harness.results.records import InitReport


def build(summary: Summary, charts: Charts) -> Section | None:
    """Return the checkpoint of each entry, if the study starts from one."""
    rows = []
    for entry in summary.study.entries:
        report = entry.done[0].measured.init_report if entry.done else None
        if report:
            rows.append([entry.label, *_row(report)])
    if not rows:
        return None
    titles = [
        "entry",
        "checkpoint (of the first seed)",
        "SHA-256",
        "converted",
        "dropped",
        "loaded",
        "newly initialized",
    ]
    return Section(
        "initialization",
        "Initialization",
        (
            paragraph("The runs start from a checkpoint. Numbers count tensors."),
            table("Initialization from a checkpoint", titles, rows, numeric=titles[-2:]),
        ),
    )


def _row(report: InitReport) -> list[str]:
    origins = Counter(report.tensors.values())
    converted = [
        f"{n}: {origin.removeprefix('converted: ')}"
        for origin, n in origins.items()
        if ":" in origin
    ]
    return [
        report.source,
        report.sha256[:12],
        "; ".join(converted) or MISSING,
        ", ".join(report.dropped) or MISSING,
        str(origins["loaded"]),
        str(origins["fresh"]),
    ]
