"""Colours, dashes and markers: one colour per level of one axis, one dash per level of another."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from harness.analysis import comparability
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.metrics import PARALLELISM
from harness.report.charts.spec import DASHES, MARKERS, MarkStyle
from harness.results.titles import Titles, of_levels

# Okabe and Ito's palette for any colour vision; the pale yellow comes last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
GREY = "#767676"
PREDICTED = "#D55E00"
# Shades of one hue for the parts of a bar, so that no part is mistaken for a variant.
SHADES = ("#3f5a76", "#6781a0", "#93a9c0", "#bfccd9", "#e4eaf0")
VERDICTS = {
    "better": MarkStyle(COLOURS[0], marker="circle"),
    "worse": MarkStyle(COLOURS[1], marker="square"),
    "equivalent": MarkStyle(COLOURS[2], marker="diamond"),
    "unresolved": MarkStyle(GREY, marker="circle-open"),
}
LINES_PER_PANEL = 8


@dataclass(frozen=True)
class Style:
    """The levels of each axis, and which axes set the colour, dash and panel of an entry."""

    levels: dict[str, tuple[str, ...]]
    colour_axis: str | None
    dash_axis: str | None
    panel_axes: tuple[str, ...]
    titles: Mapping[str, Titles] = field(default_factory=dict)  # by axis and label

    def mark(self, entry: Entry) -> MarkStyle:
        """Return the style of the entry's marks.

        The dash is solid if panels separate the levels of the dashed axis.
        """
        colour = self._index(entry, self.colour_axis)
        dash = self._index(entry, self.dash_axis)
        # 4 and the number of markers have no common factor: repeated colours get other markers
        marker = dash + 4 * (colour // len(COLOURS))
        return MarkStyle(
            colour=COLOURS[colour % len(COLOURS)],
            dash="solid" if self.dash_axis in self.panel_axes else DASHES[dash % len(DASHES)],
            marker=MARKERS[marker % len(MARKERS)],
        )

    def markers(self, entry: Entry) -> Literal["few", "none"]:
        """Return whether a line needs markers, because another variant has the same colour."""
        return "few" if self._index(entry, self.colour_axis) >= len(COLOURS) else "none"

    def _index(self, entry: Entry, axis: str | None) -> int:
        return self.levels[axis].index(entry.axes[axis]) if axis else 0

    def panel(self, entry: Entry) -> str:
        """Return the title of the entry's panel."""
        return self._title(entry, self.panel_axes)

    def group(self, entry: Entry) -> str:
        """Return which rows of a bar chart the entry belongs to."""
        return self.within_panel(entry) if self.panel_axes else ""

    def within_panel(self, entry: Entry) -> str:
        """Return the name that distinguishes the entry from others in its panel."""
        axes = [
            axis
            for axis, levels in self.levels.items()
            if len(levels) > 1 and axis not in self.panel_axes
        ]
        return self._title(entry, axes) or entry.title

    def level_title(self, axis: str, label: str) -> str:
        """Return what people read in place of a label on an axis."""
        return self.titles.get(axis, {}).get(label, label)

    def _title(self, entry: Entry, axes: Iterable[str]) -> str:
        return of_levels({axis: entry.axes[axis] for axis in axes}, self.titles)

    def in_one_panel(self, entries: Iterable[Entry]) -> "Style":
        """Return the style of a chart whose panels do not group entries.

        The names of entries omit the parallelism if all have the same.
        """
        parallelisms = {entry.axes.get(PARALLELISM) for entry in entries}
        return replace(self, panel_axes=(PARALLELISM,) if len(parallelisms) == 1 else ())


def choose_style(study: StudyResults) -> Style:
    """Choose the axis with most levels for colours, the next for dashes, and panels for all others.

    A dashed axis that would crowd a panel gets panels, too. Context axes and axes whose levels have
    incomparable losses get panels. Parallelism always does, since its curves should coincide.
    """
    varying = study.varying()
    apart = {PARALLELISM, *study.contexts, *_incomparable_axes(study)}
    others = [axis for axis in varying if axis not in apart]
    if not others:
        others = [axis for axis in varying if axis != PARALLELISM]
    others.sort(key=lambda axis: -len(study.levels[axis]))
    if not others:
        return Style(study.levels, varying[0] if varying else None, None, (), study.titles)
    colour = others[0]
    dash = others[1] if len(others) > 1 else None
    panels = [axis for axis in varying if axis not in (colour, dash)]
    if dash and len(study.levels[colour]) * len(study.levels[dash]) > LINES_PER_PANEL:
        panels.append(dash)
    panels.sort(key=lambda axis: (axis == PARALLELISM, varying.index(axis)))
    return Style(study.levels, colour, dash, tuple(panels), study.titles)


def _incomparable_axes(study: StudyResults) -> Iterator[str]:
    """Yield the axes on which two entries differ whose losses are not comparable per token."""
    for axis in study.varying():
        first: dict[tuple[str, ...], Entry] = {}
        for entry in study.entries:
            others = tuple(label for name, label in entry.axes.items() if name != axis)
            if not comparability.in_nats(entry, first.setdefault(others, entry)):
                yield axis
                break
