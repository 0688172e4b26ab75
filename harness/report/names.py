"""Replace labels of entries by titles that people read, with stamps: `RoPE · MHA [unstable]`.

Labels are replaced in the finished charts and in the finished document, so that no section, table
or chart can omit a stamp. A label within a sentence is replaced if it has a hyphen, as labels of
several axes have. Run ids, commands, paths and logs stay.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

import pandas as pd

from harness.analysis.caveats import find_stamps
from harness.analysis.dataset import Entry
from harness.analysis.summary import Summary
from harness.report.charts.spec import ChartSpec, Line, MarkStyle
from harness.report.document import (
    Block,
    Chart,
    Code,
    CodeBlock,
    Document,
    Section,
    Table,
    paragraph,
)
from harness.results.records.caveats import Caveat, CaveatKind

MAX_LISTED = 4  # stamped entries below a table or chart
GROUP_SECTIONS = ("ladder", "tuning", "contexts")  # by their ids
GROUP_CHARTS = ("ladder_", "tuning", "scaling")  # beginnings of their names
HYPHENATED = re.compile(r"[A-Za-z0-9][\w.+]*(?:-[\w.+]+)+")
T = TypeVar("T")


@dataclass(frozen=True)
class Names:
    """What replaces the label of each entry: its title, with the stamp of its caveats.

    `stamps` has only the stamp of each entry that has one: ` [unstable]`. A chart that shows no
    other entries than those of `candidates`, which represent a candidate each, has the titles of
    these. `groups` are titles of groups of entries, each named by labels that they share. Caveats
    of all entries, `shared`, are no stamps: a line in each section and below each chart has them.
    """

    shown: Mapping[str, str]
    stamps: Mapping[str, str]
    candidates: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    shared: Sequence[CaveatKind] = ()

    def of_chart(self, spec: ChartSpec) -> "Names":
        """Return the names in a chart."""
        found = set(_labels(spec.plot, self.shown))
        is_short = bool(found) and found <= self.candidates.keys()
        shown = {**self.shown, **self.candidates} if is_short else self.shown
        if spec.name.startswith(GROUP_CHARTS):
            shown = {**self.groups, **shown}
        return replace(self, shown=shown)

    def title(self, label: str) -> str:
        """Return what replaces a text if it is the label of an entry, else the text."""
        return self.shown.get(label, label)

    def in_text(self, text: str) -> str:
        """Return a text in which titles replace the labels of entries."""
        if text in self.shown:
            return self.shown[text]
        return HYPHENATED.sub(self._replace, text) if "-" in text else text

    def _replace(self, match: re.Match[str]) -> str:
        word = match.group()
        stripped = word.rstrip(".+")  # the end of a sentence
        title = self.shown.get(stripped) or self.groups.get(stripped, stripped)
        return title + word[len(stripped) :]

    def listed(self) -> str:
        """Return a sentence on the entries with stamps, empty without any."""
        if not self.stamps:
            return ""
        names = [self.title(label) for label in self.stamps]
        more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
        return f"This study has entries with caveats: {', '.join(names[:MAX_LISTED])}{more}."

    def of_all(self) -> str:
        """Return a sentence on the caveats that all entries share, empty without any."""
        return f"All entries: {', '.join(self.shared)}." if self.shared else ""


def of_summary(summary: Summary) -> Names:
    """Return the names of a study's entries, candidates and groups."""
    shared = summary.shared_caveats
    own = [caveat for caveat in summary.caveats if caveat.kind not in shared]
    names = find_names(summary.study.entries, own)
    candidates = {
        row.entry: row.title + names.stamps.get(row.entry, "")
        for row in summary.answer.rows
        if row.title
    }
    return replace(names, candidates=candidates, groups=summary.group_titles, shared=shared)


def _labels(value: Any, labels: Collection[str]) -> Iterator[str]:
    """Yield the labels among the texts of a value."""
    if isinstance(value, str):
        if value in labels:
            yield value
    elif is_dataclass(value) and not isinstance(value, type | MarkStyle):
        for one in fields(value):
            yield from _labels(getattr(value, one.name), labels)
    elif isinstance(value, list | tuple):
        for item in value:
            if isinstance(item, float | int):
                break
            yield from _labels(item, labels)


def find_names(entries: Iterable[Entry], caveats: Sequence[Caveat]) -> Names:
    """Return the names of entries, stamped with their caveats of a kind in `STAMPED`."""
    stamps = find_stamps(caveats)
    titles = {entry.label: entry.title for entry in entries}
    shown = {label: titles.get(label, label) for label in [*titles, *stamps]}
    return Names({label: title + stamps.get(label, "") for label, title in shown.items()}, stamps)


def rename(value: T, names: Names) -> T:
    """Return a value in which titles replace the labels of entries.

    Dataclasses, lists, tuples, mappings and frames are searched. A value without such a label is
    returned as it is.
    """
    renamed: T = _rename(value, names) if names.shown else value
    return renamed


def _rename(value: Any, names: Names) -> Any:
    if isinstance(value, str):
        text = names.in_text(value)
        return value if text == value else text
    if isinstance(value, float | int | MarkStyle | CodeBlock):
        return value
    if isinstance(value, Code):
        return names.shown.get(value.text) or names.groups.get(value.text, value)
    if isinstance(value, Line):
        return _rename_line(value, names)
    if isinstance(value, ChartSpec):
        names = names.of_chart(value)
        lines = [line for line in (names.of_all(), names.listed()) if line]
        if lines:
            value = replace(value, note=" ".join([value.note, *lines]))
    if isinstance(value, Section) and value.id in GROUP_SECTIONS:
        names = replace(names, shown={**names.groups, **names.shown})
    if is_dataclass(value) and not isinstance(value, type):
        return _rename_fields(value, names)
    if isinstance(value, list | tuple):
        items = [_rename(item, names) for item in value]
        changed = any(new is not old for new, old in zip(items, value, strict=True))
        return type(value)(items) if changed else value
    if isinstance(value, dict):
        renamed = {names.title(key): _rename(item, names) for key, item in value.items()}
        changed = any(key not in renamed or renamed[key] is not value[key] for key in value)
        return renamed if changed else value
    if isinstance(value, pd.DataFrame):
        return _rename_cells(value, names)
    return value


def _rename_line(line: Line, names: Names) -> Line:
    if line.entry not in names.shown:
        name = names.in_text(line.name)
        return line if name == line.name else replace(line, name=name)
    stamp = names.stamps.get(line.entry, "")
    name = names.shown[line.name] if line.name in names.shown else line.name + stamp
    return replace(line, name=name, entry=names.shown[line.entry])


def _rename_cells(frame: pd.DataFrame, names: Names) -> pd.DataFrame:
    renamed = frame.copy()
    changed = False
    for name, column in frame.items():
        cells = [_rename(cell, names) for cell in column]
        if any(new is not old for new, old in zip(cells, column, strict=True)):
            renamed[name] = pd.Series(cells, index=frame.index, dtype=object)
            changed = True
    return renamed if changed else frame


def _rename_fields(value: Any, names: Names) -> Any:
    changes = {}
    for one in fields(value):
        old = getattr(value, one.name)
        new = _rename(old, names)
        if new is not old:
            changes[one.name] = new
    return replace(value, **changes) if changes else value


def rename_document(document: Document, names: Names) -> Document:
    """Return the document with all titles and stamps.

    A table that names no stamped entry may still rest on one, as an average over entries does; a
    line below it lists them. A chart's caption always does. A section with tables or charts begins
    with the caveats that all entries share.
    """
    renamed = rename(document, names)
    if not names.stamps and not names.shared:
        return renamed
    stamped = [names.shown[label] for label in names.stamps]
    rests_on = paragraph(names.listed())
    sections = []
    for section in renamed.sections:
        blocks: list[Block] = []
        if names.shared and any(isinstance(block, Table | Chart) for block in section.blocks):
            blocks.append(paragraph(names.of_all()))
        for block in section.blocks:
            blocks.append(block)
            if names.stamps and isinstance(block, Table) and not _mentions(block, stamped):
                blocks.append(rests_on)
        sections.append(Section(section.id, section.title, blocks))
    return replace(renamed, sections=sections)


def _mentions(table: Table, names: Sequence[str]) -> bool:
    """Return whether a cell of a table has one of the names."""
    cells = [str(cell) for _, column in table.frame.items() for cell in column]
    return any(name in cell for name in names for cell in cells)
