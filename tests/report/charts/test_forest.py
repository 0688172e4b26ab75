"""If these failed, an extreme interval would flatten the answer, or the page and print differ."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report.charts import mpl
from harness.report.charts.forest_scale import cost_scale, difference_scale, is_cut
from harness.report.charts.spec import Axis, ChartSpec, CostBar, Forest, ForestRow
from harness.report.charts.style import VERDICTS
from harness.report.document import Document, FirstScreen
from harness.report.render import forest, html

STYLE = VERDICTS["better"]


def row(value=None, interval=None, name="rope", verdict="better", costs=()):
    return ForestRow(
        name, name, verdict, "", STYLE, "#0072B2", value=value, interval=interval, costs=costs
    )


def plot(*rows, **fields):
    return Forest(Axis("difference, nats per token"), rows, **fields)


def around(value, half, **fields):
    return row(value, (value - half, value + half), **fields)


def width(chart, item):
    scale = difference_scale(chart)
    part = scale.clip(item.interval)
    return scale.fraction(part.high) - scale.fraction(part.low)


def test_an_extreme_interval_does_not_flatten_the_others():
    usual = [around(-0.2, 0.05), around(0.0, 0.04), around(0.1, 0.05)]
    for extreme in (around(-0.1, 40.0), around(30.0, 0.05), around(-30.0, 40.0), row(1e6)):
        chart = plot(*usual, extreme, band=(-0.01, 0.01))
        assert min(width(chart, item) for item in usual) > 0.02
        assert is_cut(chart)
        view = forest.view(chart)
        interval = view.rows[-1].interval
        assert interval.is_low_cut or interval.is_high_cut
        assert view.note


def test_ordinary_studies_are_not_cut():
    assert not is_cut(plot(around(-0.25, 0.04), around(-0.01, 0.03), around(0.0, 0.028)))
    assert not is_cut(plot(around(0.1, 7.0)))
    assert not is_cut(plot(row(0.2), row(None)))


numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(st.lists(st.tuples(numbers, st.floats(0, 1e6)), min_size=1, max_size=12), st.booleans())
def test_all_marks_are_within_the_column(differences, banded):
    rows = [around(value, half) for value, half in differences]
    view = forest.view(plot(*rows, band=(-0.01, 0.01) if banded else None))
    assert 0 <= view.zero <= 100
    assert 1 <= len(view.ticks) <= 5
    for item in view.rows:
        assert 0 <= item.interval.start <= item.interval.end <= 100.01
        assert item.value is None or 0 <= item.value <= 100


def test_costs_share_a_scale_from_zero():
    bars = [CostBar("1", 1.0), CostBar("2", 2.0, (1.5, 90.0)), CostBar("not compiled")]
    rows = [row(costs=[bar]) for bar in bars]
    assert cost_scale(rows, 0).low == 0
    assert cost_scale(rows, 0).high == 3.0
    view = forest.view(plot(*rows, cost_titles=["tokens/s"]))
    first, second, third = (item.costs[0] for item in view.rows)
    assert second.bar == pytest.approx(2 * first.bar, abs=0.02)
    assert second.whisker.is_high_cut and third.bar is None


def drawn(chart):
    """Return the texts of a chart in print."""
    spec = ChartSpec("answer", "Loss", "left is better", "Forest plot", chart)
    figure = mpl.draw(spec)
    texts = [text for axes in figure.axes for text in axes.texts]
    return [text.get_text() for text in texts], mpl.render(spec)


def test_print_names_each_row_and_its_verdict_or_reason():
    long = "positional · " * 30
    rows = [around(-0.2, 0.05), row(verdict="lost seeds", name=long), row(0.1, verdict="a" * 60)]
    rows = [replace(item, costs=[CostBar("16k", 16e3, change="-7 %")]) for item in rows]
    texts, files = drawn(plot(*rows, cost_titles=["tokens/s"], n_more=7))
    assert {"rope", "better", "lost seeds", "16k", "-7 %", "tokens/s"} <= set(texts)
    assert any(text.startswith("7 more") for text in texts)
    assert all(files.values())


def test_the_page_has_each_row_as_text():
    chart = plot(around(-0.2, 0.05), row(name="<b>", verdict="lost seeds"), n_more=1)
    spec = ChartSpec("answer", "Loss", "left is better", "Forest plot", chart)
    page = html.render(Document("tiny", FirstScreen(("Q?",), [("A.",)], spec), [], [], ("end",)))
    table = re.search("<table.*?</table>", page, re.DOTALL)[0]
    assert "&lt;b&gt;" in table and "<b>" not in table
    assert "lost seeds" in table and "better" in table
    assert "1 more" in page and "plotly" not in page
