"""Scatter plots: every point named near it, the Pareto front ringed and joined."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from harness.report.charts.entries import MAX_ENTRIES
from harness.report.charts.limits import MIN_SPAN
from harness.report.charts.mpl.label_placement import place_labels
from harness.report.charts.mpl.setup import (
    DPI,
    FAINT,
    HEAD,
    MARKERS,
    SMALL,
    add_axes,
    new_figure,
    set_scale,
    text_sizes,
)
from harness.report.charts.spec import ChartSpec, Point, Scatter

WIDTH = 7.6  # inches, as all that follow
LEFT = 0.75
BOTTOM = 0.55
RIGHT = 0.25
CLEARANCE = 0.07  # between a label and a point
MIN_SIZE = 4.5  # points, of a marker
MAX_SIZE = 9.0


def draw(spec: ChartSpec, plot: Scatter) -> Figure:
    """Draw the points of the front, and those with the lowest y that a figure can name."""
    points = sorted(plot.points, key=lambda point: (not point.on_front, point.y))[:MAX_ENTRIES]
    height = 3.6 + 0.11 * len(points)
    figure = new_figure(LEFT + WIDTH + RIGHT, HEAD + height + BOTTOM, spec.title, spec.subtitle)
    axes = add_axes(figure, LEFT, HEAD, WIDTH, height)
    set_scale(axes, "x", plot.x)
    axes.set_xlabel(plot.x.label)
    axes.set_ylabel(plot.y.label)
    for point in points:
        _draw_point(axes, point)
    axes.margins(0.09, 0.09)
    axes.autoscale_view()
    low, high = axes.get_ylim()
    spare = max(0.0, MIN_SPAN - (high - low)) / 2
    axes.set_ylim(low - spare, high + spare)
    _join_front(axes, [point for point in points if point.on_front])
    _name_points(figure, axes, points)
    return figure


def _draw_point(axes: Axes, point: Point) -> None:
    colour = point.style.colour
    if point.interval:
        axes.plot(point.interval, [point.y, point.y], color=colour, linewidth=0.9, alpha=0.5)
    axes.plot(
        [point.x],
        [point.y],
        marker=MARKERS[point.style.marker],
        color=colour,
        markersize=MIN_SIZE + (MAX_SIZE - MIN_SIZE) * point.size**0.5,
        markeredgecolor="black" if point.on_front else "white",
        markeredgewidth=1.4 if point.on_front else 0.6,
        zorder=3,
    )


def _join_front(axes: Axes, front: Sequence[Point]) -> None:
    """Draw the border of the region that the front's points beat, within the limits of the axes."""
    if not front:
        return
    x_limits = axes.get_xlim()
    y_limits = axes.get_ylim()
    points = sorted((point.x, point.y) for point in front)
    xs = [x_limits[0], *(x for x, _ in points), points[-1][0]]
    ys = [points[0][1], *(y for _, y in points), y_limits[1]]
    axes.step(xs, ys, where="pre", color=FAINT, linewidth=1.0, linestyle=(0, (3, 2)), zorder=1)
    axes.set_xlim(x_limits)
    axes.set_ylim(y_limits)


def _name_points(figure: Figure, axes: Axes, points: Sequence[Point]) -> None:
    """Write every point's name near it, the front's in bold; a line leads to a distant label."""
    across, up = figure.get_size_inches()
    places = []
    sizes = []
    for point in points:
        x, y = axes.transData.transform((point.x, point.y))
        places.append((float(x) / DPI, float(y) / DPI))
        sizes += text_sizes([point.name], weight=_weight(point))
    bounds = (LEFT, BOTTOM, LEFT + WIDTH, up - HEAD)
    corners = place_labels(places, sizes, bounds, CLEARANCE)
    for point, (x, y), (left, bottom), (width, height) in zip(
        points, places, corners, sizes, strict=True
    ):
        near_x = min(max(x, left), left + width)
        near_y = min(max(y, bottom), bottom + height)
        if abs(near_x - x) + abs(near_y - y) > 2.5 * CLEARANCE:
            ends = [x / across, near_x / across], [y / up, near_y / up]
            figure.add_artist(Line2D(*ends, color=FAINT, linewidth=0.5))
        figure.text(
            left / across,
            bottom / up,
            point.name,
            fontsize=SMALL,
            va="bottom",
            fontweight=_weight(point),
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )


def _weight(point: Point) -> str:
    return "bold" if point.on_front else "normal"
