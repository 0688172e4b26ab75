"""If these failed, loss curves would show wrong values, or a useless part of them."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from harness.analysis import dataset, loss_curves
from harness.analysis.summary import summarize
from harness.report.charts import curves, limits
from harness.report.charts.entries import MAX_ENTRIES
from harness.report.charts.mpl import draw
from harness.report.charts.mpl.setup import styled
from harness.report.charts.spec import Line, MarkStyle, beyond
from harness.report.charts.style import choose_style


def test_bands_span_the_seeds_and_time_is_their_mean(one_axis):
    study = dataset.read(one_axis.write().store, "tiny")
    entries = study.entries
    style = choose_style(study)
    curve = loss_curves.validation(entries[0])
    losses = np.array([run.evals.val_loss for run in entries[0].done])
    line = curves.line_of_seeds(entries[0], style, curve.time_s, curve.losses)
    assert line.y == pytest.approx(losses.mean(axis=0))
    assert line.low == pytest.approx(losses.min(axis=0))
    assert line.high == pytest.approx(losses.max(axis=0))
    times = [run.evals.train_s for run in entries[0].done]
    assert line.x == pytest.approx(np.mean(times, axis=0))
    total = np.mean([run.steps.step_s.sum() for run in entries[0].done])
    assert loss_curves.training(entries[0]).time_s[-1] == pytest.approx(total)


def test_the_high_initial_loss_does_not_flatten_the_rest(one_axis, build):
    one_axis.steps = 40
    panel = build(one_axis)["val_loss"].plot.panels[0]
    low, high = panel.y.limits
    assert high < 3 < panel.lines[0].y[0]
    for line in panel.lines:
        late = np.array(line.x) >= limits.SETTLED * line.x[-1]
        assert low < np.array(line.low)[late].min()
        assert np.array(line.high)[late].max() < high


def flat_line(spread):
    return Line(
        name="a",
        entry="a",
        style=MarkStyle("#000000"),
        x=(0.0, 1.0, 2.0),
        y=(2.0, 2.0, 2.0),
        low=(2.0 - spread,) * 3,
        high=(2.0 + spread,) * 3,
    )


def test_a_distant_floor_does_not_flatten_the_curves():
    lines = [flat_line(0.1)]
    without = limits.loss_limits(lines, None)
    assert limits.loss_limits(lines, -100.0) == without
    assert limits.loss_limits(lines, 1.89)[0] < without[0]


def test_rounding_errors_do_not_look_like_differences():
    low, high = limits.loss_limits([flat_line(1e-7)], None)
    assert high - low >= limits.MIN_SPAN
    assert low < 2 < high


@pytest.mark.parametrize("n", [1, 2, 39, 40, 300, 5000])
def test_smoothing_is_an_odd_number_of_steps_within_the_curve(n):
    assert loss_curves.smoothing_window(n) % 2 == 1
    assert loss_curves.smoothing_window(n) <= n


@pytest.fixture
def diverging(fake):
    """Return a function that writes the study; runs whose id contains the text diverge."""

    def write(text):
        fake.seeds = (0,)
        fake.write()
        for run in fake.store.runs("tiny"):
            if text in run.run_id:
                path = run.path / "probes.json"
                probes = json.loads(path.read_text()) | {"final_hashes": ["a", "b"]}
                path.write_text(json.dumps(probes))
        fake.write = lambda: fake
        return fake

    return write


def test_a_diverging_entry_is_not_named_as_the_lowest(fake, build, diverging):
    fake.axes = {"parallelism": ["single", "ddp2"]}
    fake.baseline = {"parallelism": "single"}
    fake.seeds = (0,)
    charts = build(diverging("ddp2-"))
    for name in ("val_loss", "train_loss"):
        assert "lowest at the end: single" in charts[name].alt


def test_curves_are_against_tokens_if_steps_have_different_numbers(fake, build):
    """Against steps, an entry of a larger batch would look better only because it read more."""
    fake.axes = {"positional": ["learned", "rope"], "batch": ["1k", "4k"]}
    fake.settings = {"batch": {f"{n}k": {"train.tokens_per_step": n * 1024} for n in (1, 4)}}
    fake.baseline = {"positional": "learned", "batch": "1k"}
    chart = build(fake)["val_loss"]
    assert chart.title == "Validation loss against tokens"
    losses, differences = chart.plot.panels
    assert losses.x.label == differences.x.label == "tokens"
    ends = {line.entry: line.x[-1] for line in losses.lines}
    assert ends["rope-4k"] == 4 * ends["rope-1k"] == 4 * 1024 * fake.steps
    assert "rope · 4k" in chart.note and "ends at another step" in chart.note


def test_a_curve_for_each_candidate_under_one_parallelism(fake, build):
    losses, differences = build(fake)["val_loss"].plot.panels
    assert len(losses.lines) == 6 and len(differences.lines) == 5
    assert all(line.entry.endswith("-single") for line in losses.lines)
    assert [line.weight for line in losses.lines].count("thick") == 1
    assert losses.lines[-1].weight == "thick", "the baseline is drawn above the others"


def test_few_of_many_curves_are_named(fake, build):
    fake.axes = {"attention": [f"window{i}" for i in range(60)]}
    fake.baseline = {"attention": "window9"}
    fake.steps = 4
    chart = build(fake)["val_loss"]
    for panel, n_without in zip(chart.plot.panels, (0, 1), strict=True):
        named = [line for line in panel.lines if line.named]
        assert len(named) == curves.MAX_NAMED - n_without
        assert len(panel.lines) == MAX_ENTRIES - n_without
    assert "Grey: 32 others" in chart.note
    shown = {line.entry for line in chart.plot.panels[0].lines if line.named}
    assert "window9" in shown


def wavy_line(name="a", level=2.0, n=40):
    y = level + np.exp(-np.arange(n) / 4)
    return Line(name=name, entry=name, style=MarkStyle("#000000"), x=range(n), y=y.tolist())


@pytest.mark.parametrize("n", [6, 13, 40, 200])
@pytest.mark.parametrize("height", [0.5, 10.0, 1e6, -1.0])
def test_a_spike_of_any_height_does_not_change_the_limits(n, height):
    plain = [wavy_line("a", 2.0, n), wavy_line("b", 2.1, n)]
    low, high = limits.loss_limits(plain, None)
    for place in range(n - 1):
        y = list(plain[1].y)
        y[place] += height
        spiked = [plain[0], replace(plain[1], y=y)]
        found = limits.loss_limits(spiked, None)
        assert found == pytest.approx((low, high), abs=0.4 * (high - low)), place


def test_a_failed_curve_does_not_flatten_the_others():
    lines = [wavy_line("a"), wavy_line("b", 2.1)]
    y = np.full(40, 2.9)
    y[0] = 3.0
    failed = replace(wavy_line("c"), y=y.tolist())
    expected = limits.loss_limits(lines, None, hide_failed=True)
    assert limits.loss_limits([*lines, failed], None, hide_failed=True) == expected
    assert beyond(failed, expected) == [(39, "high")]


def test_curves_beyond_the_axis_are_marked_where_they_leave_it():
    line = wavy_line()
    y = list(line.y)
    y[20:23] = [3.0, 9.0, 3.0]
    y[30] = 0.5
    found = beyond(replace(line, y=y), (1.9, 2.2))
    assert found == [(21, "high"), (30, "low")]
    assert beyond(replace(line, y=[math.nan, *line.y[1:]]), (1.9, 2.2)) == []


def test_differences_stay_readable_beside_wide_intervals_and_margins():
    """Two seeds give intervals of a hundred times the difference."""
    line = replace(wavy_line(), y=[0.02] * 40, low=[-5.0] * 40, high=[5.0] * 40)
    low, high = limits.difference_limits([line], (-3.0, 3.0))
    assert low < 0
    assert high > 0.02
    assert high - low < 0.1
    narrow = replace(line, low=[0.01] * 40, high=[0.03] * 40)
    low, high = limits.difference_limits([narrow], None)
    assert low < 0 and 0.03 < high < 0.04


def test_the_entropy_is_stated_if_it_is_below_the_axis(one_axis):
    one_axis.entropy = 0.3
    study = dataset.read(one_axis.write().store, "tiny")
    (spec,) = (spec for spec in curves.build(summarize(study, "now")) if spec.name == "val_loss")
    with styled():
        axes = draw(spec).axes[0]
    assert "corpus entropy: 0.300, below this axis" in [text.get_text() for text in axes.texts]


def test_losses_under_two_tokenizers_are_in_bits_per_byte(fake, build):
    gpt2 = {"data.tokenizer": "gpt2", "model.vocab_size": 50257}
    fake.axes = {"tokens": ["bytes", "gpt2"]}
    fake.settings = {"tokens": {"bytes": {}, "gpt2": gpt2}}
    fake.baseline = {"tokens": "bytes"}
    losses, differences = build(fake)["val_loss"].plot.panels
    assert losses.y.label == "loss, bits per byte"
    assert differences.y.label == "difference, bits per byte"


def test_losses_on_other_texts_have_panels_of_their_own(fake, build):
    other = {"data.corpus": "b.txt", "data.sha256": "cd" * 32}
    fake.axes = {"positional": ["learned", "rope"], "text": ["a", "b"]}
    fake.settings = {"text": {"a": {"data.corpus": "a.txt"}, "b": other}}
    fake.baseline = {"positional": "learned", "text": "a"}
    chart = build(fake)["val_loss"]
    titles = [panel.title for panel in chart.plot.panels]
    assert titles[:2] == ["comparable with learned · a", "comparable with learned · b"]
    assert [line.entry for line in chart.plot.panels[2].lines] == ["rope-a"]
    assert "no difference: another text" in chart.note
