"""If these failed, loss curves would show wrong values, or a useless part of them."""

import json

import numpy as np
import pytest

from harness.analysis import dataset
from harness.report.charts import curves
from harness.report.charts.spec import Line, MarkStyle
from harness.report.charts.style import choose_style


def test_bands_span_the_seeds_and_time_is_their_mean(one_axis):
    study = dataset.read(one_axis.write().store, "tiny")
    entries = study.entries
    style = choose_style(study)
    curve = curves.validation(entries[0])
    losses = np.array([run.evals.val_loss for run in entries[0].done])
    line = curves.line_of_seeds(entries[0], style, curve.time_s, curve.losses)
    assert line.y == pytest.approx(losses.mean(axis=0))
    assert line.low == pytest.approx(losses.min(axis=0))
    assert line.high == pytest.approx(losses.max(axis=0))
    times = [run.evals.train_s for run in entries[0].done]
    assert line.x == pytest.approx(np.mean(times, axis=0))
    total = np.mean([run.steps.step_s.sum() for run in entries[0].done])
    assert curves.training(entries[0]).time_s[-1] == pytest.approx(total)


def test_the_high_initial_loss_does_not_flatten_the_rest(one_axis, build):
    one_axis.steps = 40
    (panel,) = build(one_axis)["val_loss_steps"].plot.panels
    low, high = panel.y.limits
    assert high < 3 < panel.lines[0].y[0]
    for line in panel.lines:
        late = np.array(line.x) >= curves.SETTLED * line.x[-1]
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
    without = curves.loss_limits(lines, None)
    assert curves.loss_limits(lines, -100.0) == without
    assert curves.loss_limits(lines, 1.89)[0] < without[0]


def test_rounding_errors_do_not_look_like_differences():
    low, high = curves.loss_limits([flat_line(1e-7)], None)
    assert high - low >= curves.MIN_SPAN
    assert low < 2 < high


@pytest.mark.parametrize(
    ("seconds", "unit"), [(5.0, (1.0, "s")), (700.0, (60.0, "min")), (20_000.0, (3600.0, "h"))]
)
def test_times_are_shown_in_a_readable_unit(seconds, unit):
    assert curves.time_unit(seconds) == unit


@pytest.mark.parametrize("n", [1, 2, 39, 40, 300, 5000])
def test_smoothing_is_an_odd_number_of_steps_within_the_curve(n):
    assert curves.smoothing_window(n) % 2 == 1
    assert curves.smoothing_window(n) <= n


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
    fake.axes["parallelism"] = ["ddp2", "single"]
    fake.baseline["parallelism"] = "ddp2"
    fake.seeds = (0,)
    assert "lowest at the end: rope-mha-ddp2" in build(fake)["val_loss_steps"].alt
    charts = build(diverging("-ddp2-"))
    for name in ("val_loss_steps", "train_loss_steps"):
        assert "lowest at the end: rope-mha-single" in charts[name].alt


def test_diverging_entries_have_no_curve_against_time(build, diverging):
    charts = build(diverging("-ddp2-"))
    titles = {
        name: [panel.title for panel in charts[name].plot.panels]
        for name in ("val_loss_steps", "val_loss_time", "train_loss_time")
    }
    assert titles["val_loss_steps"] == ["single", "ddp2", "fsdp2"]
    assert titles["val_loss_time"] == titles["train_loss_time"] == ["single", "fsdp2"]


def test_curves_are_against_tokens_if_steps_have_different_numbers(fake, build):
    """Against steps, an entry of a larger batch would look better only because it read more."""
    fake.axes = {"positional": ["learned", "rope"], "batch": ["1k", "4k"]}
    fake.settings = {"batch": {f"{n}k": {"train.tokens_per_step": n * 1024} for n in (1, 4)}}
    fake.baseline = {"positional": "learned", "batch": "1k"}
    chart = build(fake)["val_loss_steps"]
    assert chart.title == "Validation loss against tokens"
    ends = {}
    for panel in chart.plot.panels:
        assert panel.x.label == "tokens"
        ends |= {line.entry: line.x[-1] for line in panel.lines}
    assert ends["rope-4k"] == 4 * ends["rope-1k"] == 4 * 1024 * fake.steps
