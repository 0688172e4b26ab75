"""All charts of the page but for the loss curves, in the order of the page."""

from harness.analysis.summary import Summary
from harness.report.charts.style import Look
from harness.report.html import bars, lines
from harness.report.html.plots import Chart


def all_charts(summary: Summary, look: Look) -> list[Chart]:
    """Return the charts for which there are numbers."""
    wanted = (
        lines.tradeoff(summary, look),
        bars.differences(summary),
        *(bars.effects(judged) for judged in summary.metric_tests.values()),
        bars.memory(summary),
        bars.traffic(summary),
        *lines.decoding(summary, look),
        lines.lengths(summary, look),
        bars.phases(summary),
        lines.scaling(summary),
    )
    return [chart for chart in wanted if chart]
