"""If these failed, labels in figures would overlap each other, cover points, or leave the panel."""

import itertools

import numpy as np
import pytest

from harness.report.charts.mpl.label_placement import overlap, place_labels, spread


def test_labels_with_room_do_not_move():
    assert spread([5.0, 1.0, 3.0], 1.0, 0.0, 10.0) == [5.0, 1.0, 3.0]


def test_labels_are_pushed_apart_evenly():
    assert spread([5.0, 5.0, 5.0], 1.0, 0.0, 10.0) == pytest.approx([4.0, 5.0, 6.0])
    assert spread([5.0, 5.5], 1.0, 0.0, 10.0) == pytest.approx([4.75, 5.75])


@pytest.mark.parametrize("seed", range(5))
def test_spread_keeps_order_gap_and_bounds(seed):
    wanted = np.random.default_rng(seed).uniform(-2, 12, 9).tolist()
    positions = spread(wanted, 1.0, 0.0, 10.0)
    ordered = [positions[i] for i in np.argsort(wanted)]
    assert all(b - a >= 1 - 1e-9 for a, b in itertools.pairwise(ordered))
    assert min(positions) >= 0
    assert max(positions) <= 10


def test_placed_labels_cover_neither_each_other_nor_points():
    rng = np.random.default_rng(0)
    points = [(float(x), float(y)) for x, y in rng.uniform((1, 0.5), (7, 4.5), (25, 2))]
    corners = place_labels(points, [(0.9, 0.12)] * 25, (0, 0, 8, 5), 0.05)
    boxes = [(x, y, x + 0.9, y + 0.12) for x, y in corners]
    assert all(overlap(a, b) == 0 for a, b in itertools.combinations(boxes, 2))
    assert not any(box[0] < x < box[2] and box[1] < y < box[3] for box in boxes for x, y in points)
    assert all(box[0] >= 0 and box[1] >= 0 and box[2] <= 8 and box[3] <= 5 for box in boxes)
