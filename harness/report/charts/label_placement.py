"""Where labels go so that none covers another: pure geometry, in any unit of length."""

from collections.abc import Sequence

import numpy as np

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, bottom, right, top

ANGLES = np.radians([90, 270, 45, 135, 315, 225, 67, 113, 293, 247, 22, 158, 338, 202, 0, 180])


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return positions at least `gap` apart, in the order wanted, within the bounds, and as near to it as can be.

    This is isotonic regression: positions less their rank times the gap must not fall, and neighbours that would are
    pooled at their mean. Where there is too little room, the upper bound gives way.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    pools: list[list[float]] = []  # [mean, count]
    for rank, i in enumerate(order):
        pools.append([wanted[i] - rank * gap, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, n), (b, m) = pools[-2:]
            pools[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    pooled = [value for value, count in pools for _ in range(int(count))]
    top = max(low, high - (len(wanted) - 1) * gap)
    positions = [0.0] * len(wanted)
    for rank, i in enumerate(order):
        positions[i] = min(max(pooled[rank], low), top) + rank * gap
    return positions


def place(
    points: Sequence[Point], sizes: Sequence[Point], bounds: Box, clearance: float
) -> list[Point]:
    """Return each label's lower left corner: near its point, within bounds, off other labels and off all points.

    Labels are placed one by one, each at the nearest free place round its point, or where it covers least.
    """
    marks = [(x - clearance, y - clearance, x + clearance, y + clearance) for x, y in points]
    taken: list[Box] = []
    corners: list[Point] = []
    for point, (width, height) in zip(points, sizes, strict=True):
        best, least = (0.0, 0.0), np.inf
        for corner in _around(point, width, height, clearance):
            box = (corner[0], corner[1], corner[0] + width, corner[1] + height)
            if box[0] < bounds[0] or box[1] < bounds[1] or box[2] > bounds[2] or box[3] > bounds[3]:
                continue
            covered = sum(overlap(box, other) for other in taken) + sum(
                overlap(box, mark) for mark in marks
            )
            if covered < least:
                best, least = corner, covered
            if not covered:
                break
        corners.append(best)
        taken.append((best[0], best[1], best[0] + width, best[1] + height))
    return corners


def _around(point: Point, width: float, height: float, clearance: float) -> list[Point]:
    """Return corners of a label round a point, the nearest first; in a direction its nearest side faces the point."""
    corners = []
    for distance in clearance * np.array([1.2, 2.0, 3.0, 4.5, 6.0, 8.0, 11.0, 15.0]):
        for angle in ANGLES:
            x, y = point[0] + distance * np.cos(angle), point[1] + distance * np.sin(angle)
            across, up = np.cos(angle), np.sin(angle)
            corners.append((float(x - width * (1 - across) / 2), float(y - height * (1 - up) / 2)))
    return corners


def overlap(a: Box, b: Box) -> float:
    """Return the area that two boxes share."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)
