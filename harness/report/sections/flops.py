"""FLOPs per token by formula and as counted, and the attention kernels that ran."""

from harness.analysis.dataset import Entry
from harness.analysis.summary import Summary
from harness.report.document import Section, paragraph
from harness.report.formatting import MISSING
from harness.report.sections import Charts
from harness.report.tables import table

METHOD = (
    "The formula gives the FLOPs that the variant needs, the counter the FLOPs that were executed. "
    "A ratio above 1 is work of the kernel that the variant does not need."
)


def build(summary: Summary, charts: Charts) -> Section | None:
    """Return the FLOPs per token of the entries that have results."""
    entries = [entry for entry in summary.study.entries if entry.done]
    if not entries:
        return None
    numeric = ["FLOPs per token, by formula", "as counted", "counted ÷ formula"]
    rows = [_row(entry) for entry in entries]
    titles = ["entry", "attention kernels", *numeric]
    flops = table("FLOPs per token", titles, rows, numeric)
    return Section("flops", "FLOPs", (paragraph(METHOD), flops))


def _row(entry: Entry) -> list[str]:
    probes = entry.done[0].measured
    formula = probes.flops_per_token
    counted = probes.flops_per_token_counted
    kernels: set[str] = set()
    for run in entry.done:
        kernels.update(run.measured.attention_kernels)
    return [
        entry.label,
        ", ".join(sorted(kernels)) or MISSING,
        f"{formula:.4g}",
        f"{counted:.4g}" if counted else MISSING,
        f"{counted / formula:.3f}" if counted else MISSING,
    ]
