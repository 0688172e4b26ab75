"""Figures measured in inches, in one plain style, and saved to the same bytes every time."""

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, ScalarFormatter

from harness.report.charts.spec import Axis, Dash, Marker, tick_label

DPI = 150
INK = "#222222"
FAINT = "#6b6b6b"
GRID = "#e3e3e3"
TEXT = 9.0  # points
SMALL = 8.0  # points
HEAD = 0.62  # inches of title and subtitle
RC: dict[str, Any] = {
    "font.size": TEXT,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "legend.fontsize": SMALL,
    "legend.handlelength": 1.0,
    "legend.handleheight": 1.0,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.2,
    "legend.borderaxespad": 0,
    "legend.borderpad": 0.2,
    "svg.hashsalt": "ablations",
}
HALO = withStroke(linewidth=2, foreground="white")
Coords = Literal["data", "axes fraction"]
LineStyle = str | tuple[int, tuple[float, ...]]
DASHES: dict[Dash, LineStyle] = {
    "solid": "solid",
    "dash": (0, (4, 1.5)),
    "dot": (0, (1, 1.1)),
    "dashdot": (0, (5, 1.3, 1, 1.3)),
    "longdash": (0, (8, 2, 2, 2)),
}
MARKERS: dict[Marker, str] = {
    "circle": "o",
    "circle-open": "o",
    "square": "s",
    "triangle-up": "^",
    "diamond": "D",
    "triangle-down": "v",
    "cross": "P",
    "x": "X",
    "triangle-left": "<",
    "triangle-right": ">",
}


def styled() -> AbstractContextManager[None]:
    """Draw in the report's style, whatever the user's matplotlib settings are."""
    return style.context(["default", RC])


def new_figure(width: float, height: float, title: str, subtitle: str) -> Figure:
    """Return a figure with a heading; sides in inches, wide enough for the heading."""
    width = max(width, widest([subtitle]) + 0.3, widest([title], 11.0, "bold") + 0.3)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    left = 0.12 / width
    figure.text(left, 1 - 0.12 / height, title, va="top", fontsize=11, fontweight="bold")
    figure.text(left, 1 - 0.36 / height, subtitle, va="top", fontsize=SMALL, color=FAINT)
    return figure


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes at a place in inches from the figure's upper left corner."""
    across, down = figure.get_size_inches()
    return figure.add_axes(
        (left / across, 1 - (top + height) / down, width / across, height / down)
    )


class _Thousands(ScalarFormatter):
    """The same number of decimals at all ticks, and 12,000 for large numbers."""

    def __call__(self, value: float, pos: int | None = None) -> str:
        return f"{value:,.0f}" if abs(value) >= 1000 else super().__call__(value, pos)


def set_scale(axes: Axes, which: Literal["x", "y"], axis: Axis) -> None:
    """Set the scale, the ticks and their labels; not the limits."""
    mpl_axis = axes.xaxis if which == "x" else axes.yaxis
    if axis.log2:
        set_log = axes.set_xscale if which == "x" else axes.set_yscale
        set_log("log", base=2)
        mpl_axis.set_minor_locator(NullLocator())
    mpl_axis.set_major_formatter(_Thousands())
    if axis.ticks:
        mpl_axis.set_major_locator(FixedLocator(axis.ticks))
        mpl_axis.set_major_formatter(FuncFormatter(lambda value, _: tick_label(axis, value)))


def write(
    axes: Axes,
    text: str,
    xy: tuple[float, float],
    coords: tuple[Coords, Coords] = ("data", "data"),
    offset: tuple[float, float] = (0.0, 0.0),
    size: float = SMALL,
    colour: str = INK,
    ha: Literal["left", "right"] = "left",
    va: Literal["top", "bottom", "center_baseline"] = "center_baseline",
    italic: bool = False,
) -> None:
    """Write a text at a place in data coordinates or fractions of the axes, `offset` in points."""
    axes.annotate(
        text,
        xy,
        offset,
        xycoords=coords,
        textcoords="offset points",
        fontsize=size,
        fontstyle="italic" if italic else "normal",
        color=colour,
        ha=ha,
        va=va,
        path_effects=[HALO],
    )


def text_sizes(
    texts: Sequence[str], size: float = SMALL, weight: str = "normal"
) -> list[tuple[float, float]]:
    """Return each text's width and height in inches."""
    figure = Figure(dpi=DPI)
    FigureCanvasAgg(figure)
    sizes = []
    for text in texts:
        drawn = figure.text(0, 0, text, fontsize=size, fontweight=weight)
        box = drawn.get_window_extent()
        sizes.append((box.width / DPI, box.height / DPI))
    return sizes


def widest(texts: Sequence[str], size: float = SMALL, weight: str = "normal") -> float:
    """Return the width in inches of the widest text."""
    return max((width for width, _ in text_sizes(texts, size, weight)), default=0.0)


def save(figure: Figure) -> dict[str, bytes]:
    """Return the figure as PNG and SVG, by file suffix, without the time of creation."""
    png = io.BytesIO()
    svg = io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return {"png": png.getvalue(), "svg": svg.getvalue()}
