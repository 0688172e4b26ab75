"""A report as data: sections of paragraphs, tables and charts.

`render` writes a document as Markdown or HTML. All text is plain: a renderer escapes it for its
format, so a label that contains markup is shown and never interpreted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from harness.report.charts.spec import ChartSpec, JsonDict

MAX_OPEN_ROWS = 16  # a longer table is folded
MAX_ROWS = 250  # of a table in the report; the CSV files have all rows


@dataclass(frozen=True)
class Code:
    """Text in a fixed-width font: the label of an entry, a path, a command."""

    text: str


@dataclass(frozen=True)
class Emphasis:
    """Text in bold."""

    text: str


Inline = str | Code | Emphasis
Text = tuple[Inline, ...]
Cell = Inline | Text


def text(*parts: Cell) -> Text:
    """Join parts to one text, without the empty ones."""
    joined: list[Inline] = []
    for part in parts:
        joined += part if isinstance(part, tuple) else (part,)
    return tuple(part for part in joined if part != "")


def join(texts: Iterable[Cell], separator: str) -> Text:
    """Join texts with a separator between them."""
    parts: list[Cell] = []
    for item in texts:
        parts += [separator, item] if parts else [item]
    return text(*parts)


@dataclass(frozen=True)
class Heading:
    """A heading within a section; one of the level 4 is below one of the level 3."""

    text: str
    level: Literal[3, 4] = 3


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text."""

    text: Text


@dataclass(frozen=True)
class ItemList:
    """A list with bullets; if it is ordered, its items are counted from 1."""

    items: Sequence[Text]
    ordered: bool = False


@dataclass(frozen=True)
class Note:
    """A warning that is set apart from the text."""

    blocks: Sequence["Block"]


@dataclass(frozen=True)
class CodeBlock:
    """Lines of a log or of commands, shown as they are."""

    text: str
    language: str = "text"


@dataclass(frozen=True)
class Details:
    """Blocks that are folded under a summary."""

    summary: str
    blocks: Sequence["Block"]


@dataclass(frozen=True)
class Table:
    """A table of cells that are formatted already.

    `caption` names the table for screen readers. Columns in `numeric` are aligned to the right. The
    frame holds the first `MAX_ROWS` of `n_rows` rows. A page folds the table if `folded`.
    """

    caption: str
    frame: pd.DataFrame
    numeric: frozenset[str]
    n_rows: int
    folded: bool


@dataclass(frozen=True)
class Chart:
    """A chart and its caption. The page omits `static` charts: it has an interactive one."""

    spec: ChartSpec
    static: bool = False


@dataclass(frozen=True)
class EntryColumn:
    """A column of the entry table.

    `name` is that of its values in a CSV file; those with an interval have also `name_low` and
    `name_high`. An axis has `levels`, the labels to filter by. A column that is not `shown` is
    there for a reader to choose.
    """

    name: str
    title: str
    numeric: bool = True
    levels: tuple[str, ...] = ()
    shown: bool = False


Value = float | tuple[float, float, float] | None  # with the ends of its interval


@dataclass(frozen=True)
class EntryCell:
    """A cell of the entry table: its text, and the verdict that it marks.

    `value` is the unrounded number of a numeric column. A cell of text sorts by its `rank`, or by
    its text if no cell of its column has one.
    """

    text: str
    value: Value = None
    mark: str = ""
    rank: float | None = None


@dataclass(frozen=True)
class EntryRow:
    """A row of the entry table; a candidate with several entries has a row for each context.

    `index` is the position of its entry in the study. `link` is the page of its details, empty
    without one.
    """

    index: int
    cells: Sequence[EntryCell]
    contexts: Sequence["EntryRow"] = ()
    link: str = ""


@dataclass(frozen=True)
class EntryTable:
    """All candidates, best first, to sort, filter and copy in a browser.

    `contexts` names the axes of the rows within a candidate. Markdown has the blocks of `static`.
    """

    columns: Sequence[EntryColumn]
    rows: Sequence[EntryRow]
    contexts: str = ""
    static: Sequence["Block"] = ()


@dataclass(frozen=True)
class CurveExplorer:
    """The loss curves of the entries that the entry table shows. Markdown has static charts."""

    data: JsonDict


Block = (
    Heading
    | Paragraph
    | ItemList
    | Note
    | CodeBlock
    | Details
    | Table
    | Chart
    | EntryTable
    | CurveExplorer
)


@dataclass(frozen=True)
class Section:
    """Blocks under a heading; `id` is the anchor on the page."""

    id: str
    title: str
    blocks: Sequence[Block]


AdviceKind = Literal["better", "cheaper", "unresolved", "distrust"]


@dataclass(frozen=True)
class Advice:
    """One part of the recommendation: its heading and its items."""

    kind: AdviceKind
    title: str
    items: Sequence[Text]


@dataclass(frozen=True)
class FirstScreen:
    """What a reader sees first: the question, a sentence per answer, a chart, recommendations."""

    question: Text
    sentences: Sequence[Text]
    chart: ChartSpec | None = None
    advice: Sequence[Advice] = ()


@dataclass(frozen=True)
class Document:
    """A report: the first screen, the state of the runs, the sections and a footer.

    `progress` is the number of runs that are done.
    """

    title: str
    first: FirstScreen
    status: Sequence[Block]
    sections: Sequence[Section]
    footer: Text
    progress: str = ""


def paragraph(*parts: Cell) -> Paragraph:
    """Return a paragraph of these parts."""
    return Paragraph(text(*parts))


def note(*parts: Cell) -> Note:
    """Return a note of one paragraph."""
    return Note([paragraph(*parts)])


def code_list(labels: Sequence[str], limit: int = 4) -> Text:
    """Return labels as code, at most `limit` of them and the number of the others."""
    shown = join([Code(label) for label in labels[:limit]], ", ")
    more = len(labels) - limit
    return text(shown, f" and {more:,} more" if more > 0 else "")
