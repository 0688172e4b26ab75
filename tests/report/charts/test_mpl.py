"""If these failed, texts in figures would overlap, or equal data would give other figures."""

import numpy as np
import pytest

from harness.report.charts import mpl
from harness.report.charts.mpl.lines import LINE_HEIGHT
from harness.report.charts.mpl.rows import row_places
from harness.report.charts.mpl.setup import DPI, styled


@pytest.fixture
def crowd(fake):
    """A study of 18 entries whose lines mostly coincide."""
    fake.axes = {
        "positional": ["rope", "none"],
        "attention": [f"mha{i}" for i in range(8)] + ["gqa2"],
    }
    fake.baseline = {}
    fake.seeds = (0,)
    fake.steps = 2
    return fake


def names_at_ends(axes, spec):
    """Return the texts of a panel that name a line."""
    names = {line.name for panel in spec.plot.panels for line in panel.lines}
    return [text for text in axes.texts if text.get_text() in names]


def draw(spec):
    with styled():
        return mpl.draw(spec)


@pytest.mark.parametrize("sizes", [[1], [128], [32, 64], [32, 128, 256, 4096]])
@pytest.mark.parametrize("name", ["decode_time", "decode_cache", "length_loss", "position_loss"])
def test_names_of_lines_do_not_overlap(crowd, build, sizes, name):
    crowd.decode = ([1, 8], sizes)
    crowd.lengths = sizes
    spec = build(crowd)[name]
    for panel, axes in zip(spec.plot.panels, draw(spec).axes, strict=True):
        texts = names_at_ends(axes, spec)
        heights = np.sort([text.xy[1] for text in texts]) * axes.bbox.height / DPI
        assert len(heights) == 18
        assert np.diff(heights).min() > LINE_HEIGHT - 1e-9
        assert heights[0] > 0
        assert heights[-1] < axes.bbox.height / DPI
        if panel.x.ticks and panel.x.limits is None:
            assert axes.get_xticks().tolist() == list(panel.x.ticks)


def test_all_texts_are_within_the_figure(fake, build):
    fake.decode = ([1, 8], [64, 256])
    fake.lengths = [64, 256]
    fake.outcome = {f"rope-mha-ddp2-s{seed}": ("failed", "oom", "no memory") for seed in fake.seeds}
    for spec in build(fake).values():
        figure = draw(spec)
        texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
        for text in texts:
            box = text.get_window_extent()
            assert box.x0 >= 0, (spec.name, text)
            assert box.y0 >= 0, (spec.name, text)
            assert box.x1 <= figure.bbox.width, (spec.name, text)
            assert box.y1 <= figure.bbox.height, (spec.name, text)


def test_the_same_chart_has_the_same_bytes(one_axis, build):
    spec = build(one_axis)["val_loss"]
    first = mpl.render(spec)
    assert first == mpl.render(spec)
    assert first["png"].startswith(b"\x89PNG")
    assert b"<svg" in first["svg"]


def test_rows_of_a_group_are_close():
    a, b, c = row_places(["x", "x", "y"])
    assert c - b > b - a > 0
