"""Stamp entries that carry caveats, wherever the report names them: `rope-mha-single [unstable]`.

Labels are replaced in the finished charts and in the finished document, so that no section, table
or chart can omit a stamp.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import pandas as pd

from harness.analysis.caveats import STAMPED, kinds_by_entry
from harness.report.charts.spec import ChartSpec, Line
from harness.report.document import Block, Document, Section, Table, paragraph
from harness.results.records.caveats import Caveat

MAX_LISTED = 4  # stamped entries below a table or chart
Stamps = Mapping[str, str]  # the label of an entry -> its label with the stamp
T = TypeVar("T")


def find_stamps(caveats: Sequence[Caveat]) -> Stamps:
    """Return the stamped label of each entry that has a caveat of a kind in `STAMPED`."""
    stamped = {}
    for entry, kinds in kinds_by_entry(caveats).items():
        words = [kind for kind in kinds if kind in STAMPED]
        if words:
            stamped[entry] = f"{entry} [{', '.join(words)}]"
    return stamped


def stamp(value: T, stamps: Stamps) -> T:
    """Return a value in which each string that is the label of a stamped entry has its stamp.

    Dataclasses, lists, tuples, mappings and frames are searched. A value without such a label is
    returned as it is.
    """
    stamped: T = _stamp(value, stamps) if stamps else value
    return stamped


def _stamp(value: Any, stamps: Stamps) -> Any:
    if isinstance(value, str):
        return stamps.get(value, value)
    if isinstance(value, Line) and value.entry in stamps:
        suffix = stamps[value.entry].removeprefix(value.entry)
        return replace(value, name=value.name + suffix, entry=stamps[value.entry])
    if isinstance(value, ChartSpec):
        value = replace(value, note=f"{value.note} {_list(stamps)}")
    if is_dataclass(value) and not isinstance(value, type):
        return _stamp_fields(value, stamps)
    if isinstance(value, list | tuple):
        items = [_stamp(item, stamps) for item in value]
        changed = any(new is not old for new, old in zip(items, value, strict=True))
        return type(value)(items) if changed else value
    if isinstance(value, dict):
        stamped = {stamps.get(key, key): _stamp(item, stamps) for key, item in value.items()}
        changed = any(key not in stamped or stamped[key] is not value[key] for key in value)
        return stamped if changed else value
    if isinstance(value, pd.DataFrame):
        return _stamp_cells(value, stamps)
    return value


def _list(stamps: Stamps) -> str:
    names = list(stamps.values())
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return f"This study has entries with caveats: {', '.join(names[:MAX_LISTED])}{more}."


def _stamp_cells(frame: pd.DataFrame, stamps: Stamps) -> pd.DataFrame:
    stamped = frame.copy()
    changed = False
    for name, column in frame.items():
        cells = [_stamp(cell, stamps) for cell in column]
        if any(new is not old for new, old in zip(cells, column, strict=True)):
            stamped[name] = pd.Series(cells, index=frame.index, dtype=object)
            changed = True
    return stamped if changed else frame


def _stamp_fields(value: Any, stamps: Stamps) -> Any:
    changes = {}
    for field in fields(value):
        old = getattr(value, field.name)
        new = _stamp(old, stamps)
        if new is not old:
            changes[field.name] = new
    return replace(value, **changes) if changes else value


def stamp_document(document: Document, stamps: Stamps) -> Document:
    """Return the document with all stamps.

    A table that names no stamped entry may still rest on one, as an average over entries does; a
    line below it lists them. A chart's caption always does.
    """
    if not stamps:
        return document
    rests_on = paragraph(_list(stamps))
    stamped = stamp(document, stamps)
    sections = []
    for before, after in zip(document.sections, stamped.sections, strict=True):
        blocks: list[Block] = []
        for old, new in zip(before.blocks, after.blocks, strict=True):
            blocks.append(new)
            if isinstance(new, Table) and new is old:
                blocks.append(rests_on)
        sections.append(Section(after.id, after.title, blocks))
    return replace(stamped, sections=sections)
