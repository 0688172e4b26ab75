"""If these failed, figures would mislead: labels over one another, colours that change meaning, curves cut wrong."""

import itertools

import numpy as np
import pytest

from harness.analysis import dataset as accounting
from harness.report.charts import curves
from harness.report.charts.costs import row_places
from harness.report.charts.label_placement import overlap, place, spread
from harness.report.charts.mpl_setup import MIN_SPAN
from harness.report.charts.style import LINES_PER_PANEL, look


def test_labels_that_have_room_stay_where_they_are():
    assert spread([5.0, 1.0, 3.0], 1.0, 0.0, 10.0) == [5.0, 1.0, 3.0]


def test_labels_are_pushed_apart_evenly():
    assert spread([5.0, 5.0, 5.0], 1.0, 0.0, 10.0) == pytest.approx([4.0, 5.0, 6.0])
    assert spread([5.0, 5.5], 1.0, 0.0, 10.0) == pytest.approx([4.75, 5.75])


@pytest.mark.parametrize("seed", range(5))
def test_spread_keeps_order_gap_and_bounds(seed):
    wanted = np.random.default_rng(seed).uniform(-2, 12, 9).tolist()
    found = spread(wanted, 1.0, 0.0, 10.0)
    ordered = [found[i] for i in np.argsort(wanted)]
    assert all(b - a >= 1 - 1e-9 for a, b in itertools.pairwise(ordered))
    assert min(found) >= 0 and max(found) <= 10


def test_placed_labels_cover_neither_each_other_nor_points():
    rng = np.random.default_rng(0)
    points = [(float(x), float(y)) for x, y in rng.uniform((1, 0.5), (7, 4.5), (25, 2))]
    corners = place(points, [(0.9, 0.12)] * 25, (0, 0, 8, 5), 0.05)
    boxes = [(x, y, x + 0.9, y + 0.12) for x, y in corners]
    assert all(overlap(a, b) == 0 for a, b in itertools.combinations(boxes, 2))
    assert not any(box[0] < x < box[2] and box[1] < y < box[3] for box in boxes for x, y in points)
    assert all(box[0] >= 0 and box[1] >= 0 and box[2] <= 8 and box[3] <= 5 for box in boxes)


def test_one_colour_per_variant_and_a_panel_per_parallelism(fake):
    fake.seeds = (0,)
    study = accounting.read(fake.write().store, "tiny")
    chosen = look(study)
    assert (chosen.colour_axis, chosen.style_axis, chosen.panel_axes) == (
        "attention",
        "positional",
        ("parallelism",),
    )
    colours = {(entry.axes["attention"], chosen.colour(entry)) for entry in study.entries}
    assert len(colours) == 3
    looks = {
        (chosen.colour(entry), str(chosen.dash(entry)), chosen.panel(entry))
        for entry in study.entries
    }
    assert len(looks) == len(study.entries)


def test_more_variants_than_colours_are_told_apart_by_marks(fake):
    fake.axes = {"attention": [f"window{i}" for i in range(20)], "parallelism": ["single"]}
    fake.baseline, fake.seeds, fake.steps = (
        {"attention": "window0", "parallelism": "single"},
        (0,),
        4,
    )
    study = accounting.read(fake.write().store, "tiny")
    chosen = look(study)
    assert len({(chosen.colour(entry), chosen.line_marker(entry)) for entry in study.entries}) == 20


def test_crowded_panels_are_divided(fake):
    fake.axes = {
        "positional": list("abc"),
        "attention": list("defg"),
        "parallelism": ["single", "ddp2"],
    }
    fake.baseline, fake.seeds, fake.steps = {}, (0,), 4
    study = accounting.read(fake.write().store, "tiny")
    chosen = look(study)
    assert set(chosen.panel_axes) == {"positional", "parallelism"}
    assert len(chosen.levels["attention"]) <= LINES_PER_PANEL


def test_bands_span_the_seeds_and_time_is_their_mean(one_axis):
    entry = accounting.read(one_axis.write().store, "tiny").entries[0]
    curve = curves.validation(entry, against_time=True)
    losses = np.array([run.evals.val_loss for run in entry.done])
    assert curve.mean == pytest.approx(losses.mean(axis=0))
    assert curve.low == pytest.approx(losses.min(axis=0)) and curve.high == pytest.approx(
        losses.max(axis=0)
    )
    assert curve.x == pytest.approx(np.mean([run.evals.train_s for run in entry.done], axis=0))
    cumulated = np.mean([run.steps.step_s.sum() for run in entry.done])
    assert curves.training(entry, against_time=True).x[-1] == pytest.approx(cumulated)


def test_the_beginning_does_not_squash_the_end(one_axis):
    one_axis.steps, one_axis.eval_every = 40, 4
    entries = accounting.read(one_axis.write().store, "tiny").entries
    drawn = [curves.validation(entry, against_time=False) for entry in entries]
    low, high = curves.y_limits(drawn, None)
    assert high < 3 < drawn[0].mean[0]
    for curve in drawn:
        late = curve.step >= curves.SETTLED * curve.step[-1]
        assert low < curve.low[late].min() and curve.high[late].max() < high


def test_a_floor_far_below_does_not_squeeze_the_curves(one_axis):
    entry = accounting.read(one_axis.write().store, "tiny").entries[0]
    drawn = [curves.validation(entry, against_time=False)]
    without = curves.y_limits(drawn, None)
    near = float(drawn[0].low.min()) - 0.01
    assert curves.y_limits(drawn, -100.0) == without
    assert curves.y_limits(drawn, near)[0] < near


@pytest.mark.parametrize(
    ("seconds", "unit"), [(5.0, (1.0, "s")), (700.0, (60.0, "min")), (20_000.0, (3600.0, "h"))]
)
def test_times_are_shown_in_a_readable_unit(seconds, unit):
    assert curves.time_unit(seconds) == unit


def test_smoothing_is_an_odd_number_of_steps_within_the_curve():
    for n in (1, 2, 39, 40, 300, 5000):
        assert curves.smoothing(n) % 2 == 1 and curves.smoothing(n) <= n


def test_rows_of_a_group_stand_together():
    a, b, c = row_places(["x", "x", "y"])
    assert c - b > b - a > 0


def test_rounding_errors_are_not_blown_up_to_differences(one_axis):
    entry = accounting.read(one_axis.write().store, "tiny").entries[0]
    flat = np.full(5, 2.0)
    low, high = curves.y_limits(
        [curves.Curve(entry, np.arange(5), np.arange(5), flat, flat - 1e-7, flat + 1e-7)], None
    )
    assert high - low >= MIN_SPAN and low < 2 < high
