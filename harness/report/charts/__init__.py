"""The charts of the report, each prepared once as a `ChartSpec`.

`mpl.render` and `plotly.render` draw them; only `mpl` imports matplotlib.
"""

from dataclasses import replace

from harness.analysis.summary import Summary
from harness.report.charts import (
    answer,
    bars,
    curves,
    decoding,
    effects,
    eval_lengths,
    ladder,
    scaling,
    tradeoff,
    tuning,
)
from harness.report.charts.entries import limit_entries
from harness.report.charts.spec import ChartSpec

__all__ = ["ChartSpec", "build"]


def build(summary: Summary) -> list[ChartSpec]:
    """Return all charts for which the study has results, none if no run is completed."""
    if not summary.with_results:
        return []
    shown = limit_entries(summary)
    charts = [
        *curves.build(shown),
        *effects.differences(shown),
        *bars.memory(shown),
        *bars.throughput(shown),
        *bars.phases(shown),
        *bars.traffic(shown),
        *eval_lengths.build(shown),
        *decoding.build(shown),
    ]
    if shown is not summary:
        note = f" Of {len(summary.study.entries):,} entries, the baselines and the lowest losses."
        charts = [replace(chart, note=chart.note + note) for chart in charts]
    return [
        *answer.build(summary),
        *charts,
        *tradeoff.build(summary),
        *scaling.build(summary),
        *ladder.build(summary),
        *effects.effects(summary),
        *tuning.build(summary),
    ]
