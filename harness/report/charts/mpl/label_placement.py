"""Place labels without overlap: pure geometry, in any unit of length."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, bottom, right, top

ANGLES = np.radians([90, 270, 45, 135, 315, 225, 67, 113, 293, 247, 22, 158, 338, 202, 0, 180])
DISTANCES = np.array([1.2, 2.0, 3.0, 4.5, 6.0, 8.0, 11.0, 15.0])  # times the clearance


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return positions at least `gap` apart within the bounds, in order and close to `wanted`.

    This is isotonic regression: positions minus rank times gap must not decrease. If there is too
    little room, the upper bound gives way.
    """
    from scipy.optimize import isotonic_regression  # slow to import

    order = np.argsort(wanted, kind="stable")
    offsets = gap * np.arange(len(wanted))
    fitted = isotonic_regression(np.array(wanted)[order] - offsets).x
    positions = np.empty(len(wanted))
    positions[order] = fitted.clip(low, max(low, high - offsets[-1])) + offsets
    return [float(position) for position in positions]


def place_labels(
    points: Sequence[Point], sizes: Sequence[Point], bounds: Box, clearance: float
) -> list[Point]:
    """Return each label's lower left corner: near its point, off other labels and all points.

    Each label in turn takes the nearest free place around its point within the bounds, or the one
    that covers least.
    """
    taken = [(x - clearance, y - clearance, x + clearance, y + clearance) for x, y in points]
    corners: list[Point] = []
    across = np.outer(clearance * DISTANCES, np.cos(ANGLES)).ravel()
    up = np.outer(clearance * DISTANCES, np.sin(ANGLES)).ravel()
    for (x, y), (width, height) in zip(points, sizes, strict=True):
        # the nearest side of the label faces the point
        left = x + across - width * (1 - np.tile(np.cos(ANGLES), len(DISTANCES))) / 2
        bottom = y + up - height * (1 - np.tile(np.sin(ANGLES), len(DISTANCES))) / 2
        boxes = np.stack([left, bottom, left + width, bottom + height], axis=1)
        within = (boxes[:, :2] >= bounds[:2]) & (boxes[:, 2:] <= bounds[2:])
        covered = overlap(boxes[:, np.newaxis], taken).sum(axis=1)
        best = np.where(within.all(axis=1), covered, np.inf).argmin()  # the first of equals
        corners.append((float(left[best]), float(bottom[best])))
        taken.append(tuple(boxes[best].tolist()))
    return corners


def overlap(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Return the area that two boxes share; arrays of boxes, shape (..., 4), are broadcast."""
    a = np.asarray(a)
    b = np.asarray(b)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return np.asarray(sides.clip(0).prod(axis=-1))
