"""Figures measured in inches, in one plain style, and written the same to the byte every time."""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

DPI = 150
INK, FAINT, GRID = "#222222", "#6b6b6b", "#e3e3e3"
TEXT, SMALL = 9.0, 8.0  # points
MIN_SPAN = (
    0.01  # nats that an axis of losses spans at least, so that rounding errors are not blown up
)
HEAD = 0.62  # inches that title and subtitle take
STYLE: Any = {
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
    "svg.hashsalt": "ablations",
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the report's style, whatever the user's own settings of matplotlib are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def new_figure(width: float, height: float, title: str, subtitle: str) -> Figure:
    """Return an empty figure, sides in inches, with its heading."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(
        0.12 / width, 1 - 0.12 / height, title, ha="left", va="top", fontsize=11, fontweight="bold"
    )
    figure.text(
        0.12 / width, 1 - 0.36 / height, subtitle, ha="left", va="top", fontsize=SMALL, color=FAINT
    )
    return figure


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes at a place in inches from the figure's upper left corner."""
    across, down = figure.get_size_inches()
    return figure.add_axes(
        (left / across, 1 - (top + height) / down, width / across, height / down)
    )


def text_sizes(
    texts: Sequence[str], size: float = SMALL, weight: str = "normal"
) -> list[tuple[float, float]]:
    """Return each text's width and height in inches."""
    figure = Figure(dpi=DPI)
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [
        figure.text(0, 0, text, fontsize=size, fontweight=weight).get_window_extent(renderer)
        for text in texts
    ]
    return [(box.width / DPI, box.height / DPI) for box in boxes]


def widest(texts: Sequence[str], size: float = SMALL) -> float:
    """Return the width in inches of the widest text."""
    return max((width for width, _ in text_sizes(texts, size)), default=0.0)


def thousands() -> FuncFormatter:
    """Return a formatter that writes 12,000."""
    return FuncFormatter(lambda value, _: f"{value:,.10g}")


def sizes() -> FuncFormatter:
    """Return a formatter that writes a number of bytes as 512 KiB."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")

    def write(size: float, _: int | None) -> str:
        power = min(max(int(math.log2(size) // 10), 0), len(units) - 1)
        return f"{size / 1024**power:,.4g} {units[power]}"

    return FuncFormatter(write)


def render(figure: Figure) -> dict[str, bytes]:
    """Return the figure as PNG and as SVG, by file suffix; nothing in them tells when they were made."""
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return {"png": png.getvalue(), "svg": svg.getvalue()}
