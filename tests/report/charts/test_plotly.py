"""If these failed, the page would draw other values than the charts have, or not load at all."""

import json

import pytest

from harness.report.charts import mpl, plotly
from harness.report.charts.spec import tick_label


@pytest.fixture
def figures(fake, build):
    """All figures of a study, and the charts they are drawn from, by name."""
    fake.decode = ([1, 8], [64, 256])
    fake.lengths = [64, 256]
    charts = build(fake)
    return {name: json.loads(json.dumps(plotly.render(spec))) for name, spec in charts.items()}


def named(figure):
    return {trace["name"]: trace for trace in figure["data"] if trace.get("name")}


def test_small_multiples_share_a_legend(figures):
    figure = figures["decode_time"]
    assert figure["layout"]["grid"]["columns"] == 2
    assert {trace["xaxis"] for trace in figure["data"]} == {"x", "x2"}
    shown = [trace["name"] for trace in figure["data"] if trace["showlegend"]]
    assert len(shown) == len(set(shown)) == 6
    titles = [text["text"] for text in figure["layout"]["annotations"]]
    assert {"<b>batch 1</b>", "<b>batch 8</b>"} <= set(titles)


def test_bars_have_their_parts_and_predictions(figures):
    traces = named(figures["memory"])
    parts = ["parameters", "gradients", "optimizer", "activations", "other"]
    assert list(traces) == [*parts, "predicted"]
    assert figures["memory"]["rows"] == 6
    assert len(traces["predicted"]["x"]) == 6


def test_entries_of_one_seed_have_no_bar_beside_those_with_one(one_axis, build):
    one_axis.outcome = {f"learned-gqa2-single-s{s}": ("failed", "oom", None) for s in (1, 2)}
    charts = build(one_axis)
    for name in ("throughput", "throughput_loss"):
        traces = plotly.render(charts[name])["data"]
        errors = [trace["error_x"] for trace in traces if "error_x" in trace]
        ends = [end for error in errors for end in error["array"]]
        assert len([end for end in ends if end is None]) == 1, name
        assert any(end is not None and end > 0 for end in ends), name
        assert mpl.draw(charts[name])


def test_a_verdict_is_a_trace_of_its_own(figures):
    traces = named(figures["effects_val_loss"])
    assert {"better", "worse"} <= set(traces)
    total = sum(len(trace["x"]) for trace in traces.values())
    assert total == figures["effects_val_loss"]["rows"] == 5


def test_log_axes_are_labelled_at_their_ticks(figures):
    axis = figures["decode_cache"]["layout"]["yaxis"]
    assert axis["type"] == "log"
    assert "64 KiB" in axis["ticktext"]


def test_names_are_shown_as_they_are_and_gaps_as_null():
    assert plotly.plain("<b>a & b") == "&lt;b&gt;a &amp; b"
    assert plotly.rounded([1.23456789, float("nan"), float("inf")]) == [1.23457, None, None]


def test_sizes_are_labelled_in_binary_units(figures, build, one_axis):
    one_axis.decode = ([1], [64])
    axis = build(one_axis)["decode_cache"].plot.panels[0].y
    assert tick_label(axis, 2**19) == "512 KiB"
    assert tick_label(axis, 3 * 2**30) == "3 GiB"
