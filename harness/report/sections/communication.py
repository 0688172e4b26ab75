"""Communication between ranks: measured and predicted."""

from harness.analysis.summary import Summary
from harness.report.document import Block, Cell, Section, paragraph
from harness.report.formatting import MIB, MISSING
from harness.report.sections import Charts, chart_blocks
from harness.report.sections.predictions import (
    deviation_warning,
    exceeds_tolerance,
    signed_percent,
)
from harness.report.tables import table

METHOD = (
    "Collectives per step on the busiest rank: number of calls, payload (MiB of the whole "
    "buffers), and MiB that a rank sends assuming a bandwidth-optimal algorithm: 2 (n - 1) / n of "
    "the payload for an all-reduce over n ranks, (n - 1) / n for the others. The prediction is the "
    "formula of the parallelism, computed from the sizes of the parameters only."
)


def build(summary: Summary, charts: Charts) -> Section | None:
    """Return what each entry's ranks send, if they communicate."""
    rows: list[list[Cell]] = []
    deviating = []
    for label, result in summary.results.items():
        traffic = result.traffic
        if traffic is None or not (traffic.collectives or traffic.predicted_bytes):
            continue
        calls = [
            f"{name} {counts.calls:,} × ({_mib(counts.payload_bytes)})"
            for name, counts in traffic.collectives.items()
        ]
        rows.append(
            [
                label,
                ", ".join(calls) or MISSING,
                _mib(traffic.sent_bytes),
                _mib(traffic.predicted_bytes),
                signed_percent(traffic.deviation),
            ]
        )
        if exceeds_tolerance(traffic.deviation):
            deviating.append(label)
    if not rows:
        return None
    numeric = ["sent per rank, MiB", "predicted, MiB", "deviation"]
    titles = ["entry", "collectives (payload, MiB)", *numeric]
    blocks: list[Block] = [
        paragraph(METHOD),
        table("Communication of a step", titles, rows, numeric),
    ]
    if deviating:
        blocks.append(deviation_warning(deviating, "communication volume"))
    blocks += chart_blocks(charts, "traffic")
    return Section("communication", "Communication", tuple(blocks))


def _mib(size_bytes: float | None) -> str:
    return MISSING if size_bytes is None else f"{size_bytes / MIB:,.4g}"
