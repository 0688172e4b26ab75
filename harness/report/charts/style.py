"""Colours, dashes and markers: one colour for each candidate, the same in all charts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from harness.analysis.candidates import candidate_positions, find_candidates
from harness.analysis.dataset import Entry, StudyResults
from harness.report.charts.spec import DASHES, MARKERS, MarkStyle

# Okabe and Ito's palette for any colour vision. The colours of verdicts follow the others; the pale
# yellow comes last. The baseline is black.
COLOURS = ("#E69F00", "#CC79A7", "#56B4E9", "#0072B2", "#009E73", "#D55E00", "#F0E442")
BASELINE = "#000000"
GREY = "#767676"
PREDICTED = "#D55E00"
# Shades of one hue for the parts of a bar, so that no part is mistaken for a variant.
SHADES = ("#3f5a76", "#6781a0", "#93a9c0", "#bfccd9", "#e4eaf0")
VERDICTS = {
    "better": MarkStyle("#0072B2", marker="circle"),
    "worse": MarkStyle("#D55E00", marker="square"),
    "equivalent": MarkStyle("#009E73", marker="diamond"),
    "unresolved": MarkStyle(GREY, marker="circle-open"),
}


@dataclass(frozen=True)
class Style:
    """The position of each entry's candidate and its name, by the label of the entry.

    The baseline has the position 0. Entries that differ on context axes only have the same.
    """

    positions: Mapping[str, int]
    names: Mapping[str, str]

    def mark(self, entry: Entry) -> MarkStyle:
        """Return the style of the entry's marks."""
        position = self.positions[entry.label]
        if position == 0:
            return MarkStyle(BASELINE)
        turn, colour = divmod(position - 1, len(COLOURS))
        # 4 and the number of markers have no common factor: repeated colours get other markers
        return MarkStyle(
            colour=COLOURS[colour],
            dash=DASHES[turn % len(DASHES)],
            marker=MARKERS[(1 + colour + 4 * turn) % len(MARKERS)],
        )

    def markers(self, entry: Entry) -> Literal["few", "none"]:
        """Return whether a line needs markers, because another has the same colour and dash."""
        return "few" if self.positions[entry.label] > len(COLOURS) * len(DASHES) else "none"

    def group(self, entry: Entry) -> str:
        """Return which rows of a bar chart the entry belongs to, if candidates have several."""
        repeats = len(set(self.positions.values())) < len(self.positions)
        return self.names[entry.label] if repeats else ""

    def within_panel(self, entry: Entry) -> str:
        """Return the name of the entry's candidate."""
        return self.names[entry.label]

    def in_one_panel(self, entries: Iterable[Entry]) -> "Style":
        """Return a style with distinct names for these entries, as one panel needs them."""
        titles = {entry.label: entry.title for entry in entries}
        if len({self.names[label] for label in titles}) == len(titles):
            return self
        return replace(self, names={**self.names, **titles})


def choose_style(study: StudyResults) -> Style:
    """Choose a colour for each candidate, or for each context if there is one candidate.

    The colours of a part of a study are those of the whole study.
    """
    candidates = find_candidates(study)
    if len(candidates) == 1:
        names = {entry.label: entry.title for entry in study.entries}
    else:
        names = {one.label: item.title for item in candidates for one in item.entries}
    return Style(study.positions or candidate_positions(study), names)
