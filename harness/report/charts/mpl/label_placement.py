"""Place labels without overlap: pure geometry, in any unit of length."""

from collections.abc import Sequence

import numpy as np

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, bottom, right, top

ANGLES = np.radians([90, 270, 45, 135, 315, 225, 67, 113, 293, 247, 22, 158, 338, 202, 0, 180])


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return positions at least `gap` apart within the bounds, in order and close to `wanted`.

    This is isotonic regression: positions minus rank times gap must not decrease, and neighbours
    that do are pooled at their mean. If there is too little room, the upper bound gives way.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    pools: list[tuple[float, int]] = []  # mean, count
    for rank, i in enumerate(order):
        mean = wanted[i] - rank * gap
        count = 1
        while pools and pools[-1][0] > mean:
            other, n = pools.pop()
            mean = (mean * count + other * n) / (count + n)
            count += n
        pools.append((mean, count))
    pooled = np.repeat([mean for mean, _ in pools], [count for _, count in pools])
    top = max(low, high - (len(wanted) - 1) * gap)
    positions = [0.0] * len(wanted)
    for rank, i in enumerate(order):
        positions[i] = min(max(float(pooled[rank]), low), top) + rank * gap
    return positions


def place_labels(
    points: Sequence[Point], sizes: Sequence[Point], bounds: Box, clearance: float
) -> list[Point]:
    """Return each label's lower left corner: near its point, off other labels and all points.

    Each label in turn takes the nearest free place around its point within the bounds, or the one
    that covers least.
    """
    marks = [(x - clearance, y - clearance, x + clearance, y + clearance) for x, y in points]
    taken: list[Box] = []
    corners: list[Point] = []
    for point, (width, height) in zip(points, sizes, strict=True):
        best = (0.0, 0.0)
        least = np.inf
        for corner in _candidates(point, width, height, clearance):
            box = _box(corner, width, height)
            if not _within(box, bounds):
                continue
            covered = sum(overlap(box, other) for other in (*taken, *marks))
            if covered < least:
                best = corner
                least = covered
            if not covered:
                break
        corners.append(best)
        taken.append(_box(best, width, height))
    return corners


def _candidates(point: Point, width: float, height: float, clearance: float) -> list[Point]:
    """Return corners of a label around a point, nearest first; its nearest side faces the point."""
    corners = []
    for distance in clearance * np.array([1.2, 2.0, 3.0, 4.5, 6.0, 8.0, 11.0, 15.0]):
        for angle in ANGLES:
            across = np.cos(angle)
            up = np.sin(angle)
            x = point[0] + distance * across - width * (1 - across) / 2
            y = point[1] + distance * up - height * (1 - up) / 2
            corners.append((float(x), float(y)))
    return corners


def _box(corner: Point, width: float, height: float) -> Box:
    left, bottom = corner
    return left, bottom, left + width, bottom + height


def _within(box: Box, bounds: Box) -> bool:
    return (
        box[0] >= bounds[0] and box[1] >= bounds[1] and box[2] <= bounds[2] and box[3] <= bounds[3]
    )


def overlap(a: Box, b: Box) -> float:
    """Return the area that two boxes share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)
