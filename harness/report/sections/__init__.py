"""The sections of a report: one module each, with `build(summary, charts) -> Section | None`."""

from collections.abc import Callable, Iterator, Mapping

from harness.analysis.summary import Summary
from harness.report.charts.spec import ChartSpec
from harness.report.document import Chart, Section

Charts = Mapping[str, ChartSpec]  # by name
Builder = Callable[[Summary, Charts], Section | None]


def chart_blocks(charts: Charts, *names: str, static: bool = False) -> Iterator[Chart]:
    """Return the charts of these names that exist."""
    for name in names:
        if name in charts:
            yield Chart(charts[name], static)
