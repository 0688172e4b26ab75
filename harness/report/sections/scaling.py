"""Strong scaling with the number of processes."""

from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Section, paragraph
from harness.report.sections import Charts, chart_blocks
from harness.report.tables import (
    count_column,
    display,
    interval_column,
    number_column,
    text_column,
)

METHOD = (
    "Speedup is the throughput over that of the reference entry. Efficiency is the speedup over "
    "the ratio of the numbers of processes. All entries train the same number of tokens per step "
    "(strong scaling). Processes beyond the number of physical cores share cores."
)


def build(summary: Summary, charts: Charts) -> Section | None:
    """Return the speedups, if some parallelism has several numbers of processes."""
    if "scaling" not in summary.tables:
        return None
    columns = [
        text_column("parallelism", "group"),
        text_column("entry", "entry"),
        count_column("processes", "world_size"),
        interval_column("tokens/s", "tokens_per_s", formatting.median),
        interval_column("speedup", "speedup", formatting.ratio),
        number_column("efficiency", "efficiency", formatting.percent),
        text_column("reference", "against"),
    ]
    return Section(
        "scaling",
        "Scaling",
        (
            paragraph(METHOD),
            display("Strong scaling", summary.tables["scaling"], columns),
            *chart_blocks(charts, "scaling"),
        ),
    )
