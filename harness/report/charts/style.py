"""How a variant looks in all figures: one colour per level of one axis, one dash and mark per level of another."""

from dataclasses import dataclass
from typing import Any

from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.metrics import PARALLELISM

# Okabe and Ito's palette, which people with any colour vision tell apart; the pale yellow comes last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
DASHES: tuple[Any, ...] = (
    "solid",
    (0, (4, 1.5)),
    (0, (1, 1.1)),
    (0, (5, 1.3, 1, 1.3)),
    (0, (8, 2, 2, 2)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES_PER_PANEL = 8
SEPARATOR = " · "


@dataclass(frozen=True)
class Look:
    """The axes that colour, dash and panels stand for, and each one's levels."""

    levels: dict[str, tuple[str, ...]]
    colour_axis: str | None
    style_axis: str | None
    panel_axes: tuple[str, ...]

    def colour(self, entry: Entry) -> str:
        """Return the colour of the entry's variant on the colour axis."""
        return COLOURS[self._index(entry, self.colour_axis) % len(COLOURS)]

    def dash(self, entry: Entry) -> Any:
        """Return the line style of the entry's variant on the style axis, unless panels tell its variants apart."""
        if self.style_axis in self.panel_axes:
            return DASHES[0]
        return DASHES[self._index(entry, self.style_axis) % len(DASHES)]

    def line_marker(self, entry: Entry) -> str:
        """Return the mark that tells variants of the same colour apart; none while there are colours enough."""
        turn = self._index(entry, self.colour_axis) // len(COLOURS)
        return MARKERS[(turn - 1) % len(MARKERS)] if turn else ""

    def point_marker(self, entry: Entry) -> str:
        """Return the mark of the entry's variant on the style axis."""
        turn = self._index(entry, self.colour_axis) // len(COLOURS)
        return MARKERS[(self._index(entry, self.style_axis) + 3 * turn) % len(MARKERS)]

    def _index(self, entry: Entry, axis: str | None) -> int:
        return self.levels[axis].index(entry.axes[axis]) if axis else 0

    def panel(self, entry: Entry) -> str:
        """Return the title of the panel in which the entry is drawn."""
        return SEPARATOR.join(entry.axes[axis] for axis in self.panel_axes)

    def within_panel(self, entry: Entry) -> str:
        """Return what tells the entry from the others of its panel."""
        named = [
            axis
            for axis in self.levels
            if len(self.levels[axis]) > 1 and axis not in self.panel_axes
        ]
        return SEPARATOR.join(entry.axes[axis] for axis in named) or entry.label


def look(study: StudyResults) -> Look:
    """Choose: colour for the axis with most levels, dashes for the next, panels for parallelism and all others.

    Where that would crowd a panel, the dashed axis gets panels as well. Parallelism, whose curves should coincide,
    has panels first of all.
    """
    varying = study.varying()
    others = sorted(
        (axis for axis in varying if axis != PARALLELISM), key=lambda axis: -len(study.levels[axis])
    )
    if not others:
        return Look(study.levels, varying[0] if varying else None, None, ())
    colour, style = others[0], others[1] if len(others) > 1 else None
    crowded = style and len(study.levels[colour]) * len(study.levels[style]) > LINES_PER_PANEL
    panels = [axis for axis in varying if axis not in (colour, style)] + (
        [style] if style and crowded else []
    )
    panels.sort(key=lambda axis: (axis == PARALLELISM, varying.index(axis)))
    return Look(study.levels, colour, style, tuple(panels))
