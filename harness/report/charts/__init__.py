"""The charts of the report, each prepared once as a `ChartSpec`.

`mpl.render` and `plotly.render` draw them; only `mpl` imports matplotlib.
"""

from dataclasses import replace

from harness.analysis.summary import Summary
from harness.report.charts import (
    answer,
    bars,
    contexts,
    curves,
    decoding,
    effects,
    eval_lengths,
    ladder,
    scaling,
    tradeoff,
    tuning,
)
from harness.report.charts.entries import (
    baseline_in_contexts,
    context_note,
    limit_entries,
    one_per_candidate,
)
from harness.report.charts.spec import ChartSpec

__all__ = ["ChartSpec", "build"]


def build(summary: Summary) -> list[ChartSpec]:
    """Return all charts for which the study has results, none if no run is completed."""
    if not summary.with_results:
        return []
    candidates = one_per_candidate(summary)
    shown = limit_entries(candidates)
    charts: list[ChartSpec] = []
    if len(summary.answer.rows) > answer.MAX_ROWS and not summary.study.contexts:
        charts += effects.losses(shown)  # else the answer has these rows
    charts += [
        *effects.throughput(shown),
        *bars.memory(shown),
        *bars.throughput(shown),
        *bars.phases(shown),
        *bars.traffic(shown),
        *eval_lengths.build(summary),
        *decoding.build(summary),
    ]
    if shown is not candidates:
        n_entries = f"{len(candidates.study.entries):,} entries"
        note = f" Of {n_entries}, the baselines and the lowest losses."
        charts = [replace(chart, note=chart.note + note) for chart in charts]
    charts += tradeoff.build(candidates)
    note = context_note(summary)
    charts = [replace(chart, note=chart.note + note) for chart in charts]
    return [
        *answer.build(summary),
        *curves.build(summary),
        *charts,
        *contexts.build(summary),
        *bars.phases(baseline_in_contexts(summary), "phases_by_context"),
        *scaling.build(summary),
        *ladder.build(summary),
        *effects.by_context(summary),
        *effects.effects(summary),
        *tuning.build(summary),
    ]
