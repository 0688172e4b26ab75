"""How numbers, names and colours reach plotly."""

from collections.abc import Iterable
from html import escape

import numpy as np

from harness.analysis.dataset import Entry
from harness.analysis.significance import VerdictName
from harness.report.charts.style import COLOURS, DASHES, MARKERS, Look
from harness.results.store import Json

DASH_NAMES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "triangle-down",
    "cross",
    "x",
    "triangle-left",
    "triangle-right",
)
WORDS: dict[VerdictName, tuple[str, str]] = {  # colour and mark of a verdict
    "better": (COLOURS[0], "circle"),
    "worse": (COLOURS[1], "square"),
    "equivalent": (COLOURS[2], "diamond"),
    "unresolved": ("#808080", "circle-open"),
}
DIGITS = 6


def plain(text: str) -> str:
    """Return a name that plotly, which reads some HTML, shows as it is."""
    return escape(text, quote=False)


def rounded(values: Iterable[float]) -> list[float | None]:
    """Return numbers short enough for a file; what is not finite is a gap."""
    return [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in values]


def line(look: Look, entry: Entry) -> Json:
    """Return the colour, the dash and the mark of an entry's line; panels of the figures are told apart by the mark."""
    dash, marker = DASHES.index(look.dash(entry)), look.point_marker(entry)
    return {
        "colour": look.colour(entry),
        "dash": DASH_NAMES[dash],
        "symbol": SYMBOLS[MARKERS.index(marker)],
    }
