"""Render a document as GitHub Markdown, with links to the files of its figures."""

import html
import re
from collections.abc import Iterable, Iterator
from typing import assert_never

from harness.printable import one_line, printable
from harness.report.document import (
    Block,
    Cell,
    Chart,
    Code,
    CodeBlock,
    CurveExplorer,
    Details,
    Document,
    Emphasis,
    EntryTable,
    FirstScreen,
    Heading,
    Inline,
    ItemList,
    Note,
    Paragraph,
    Section,
    Table,
    text,
)

MARKUP = re.compile(
    r"[\\`*~$]|(?<![^\W_])_|_(?![^\W_])"
    r"|:(?=//|[a-z+_-][\w+-]*:)|(?<=www)\.|(?<=\w)@(?=[\w-]+\.\w)"  # of addresses and of emoji
)
BLOCK_START = re.compile(
    r"^(?P<before>\d{1,9}(?=[.)]))?"
    r"(?P<mark>(?(before)[.)](?=\s|$)|(?:[-+](?=\s|$)|#{1,6}(?=\s|$)|>|\[|[-=][-= ]*$)))"
)
BAR = "&#124;"


def render(document: Document) -> str:
    """Return the document as Markdown, without the footer: the same results give the same text."""
    opening = [
        f"# {_escape(document.title)}",
        *_first_screen(document.first),
        _blocks(document.status),
    ]
    sections = [_section(section) for section in document.sections]
    return _join([*opening, *sections]) + "\n"


def _first_screen(first: FirstScreen) -> Iterator[str]:
    """Yield the question, the answers, the chart and the recommendations."""
    yield _line(first.question)
    yield from map(_line, first.sentences)
    if first.chart is not None:
        yield _block(Chart(first.chart))
    for advice in first.advice:
        yield f"**{_escape(advice.title)}**"
        yield _block(ItemList(advice.items))


def _join(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part)


def _section(section: Section) -> str:
    return _join([f"## {_escape(section.title)}", _blocks(section.blocks)])


def _blocks(blocks: Iterable[Block]) -> str:
    return _join(_block(block) for block in blocks)


def _block(block: Block) -> str:
    match block:
        case Heading(content, level):
            return f"{'#' * level} {_text(content)}"
        case Paragraph(content):
            return _line(content)
        case ItemList(items, ordered):
            marks = [f"{i}." if ordered else "-" for i in range(1, len(items) + 1)]
            return "\n".join(
                f"{mark} {_line(item)}" for mark, item in zip(marks, items, strict=True)
            )
        case Note(blocks):
            return "\n".join(f"> {line}".rstrip() for line in _blocks(blocks).split("\n"))
        case CodeBlock(lines, language):
            lines = printable(lines)
            fence = "`" * max(3, _longest_backticks(lines) + 1)
            return f"{fence}{language}\n{lines}\n{fence}"
        case Details(summary, blocks):
            escaped = html.escape(one_line(summary), quote=False)
            return f"<details><summary>{escaped}</summary>\n\n{_blocks(blocks)}\n\n</details>"
        case Table():
            return _table(block)
        case Chart(spec):
            alt = _escape(spec.alt).replace("[", "\\[").replace("]", "\\]")
            return f"![{alt}](figures/{spec.name}.png)\n\n*{_escape(spec.caption)}*"
        case EntryTable():
            return _blocks(block.static)
        case CurveExplorer():
            return ""
    assert_never(block)


def _table(table: Table) -> str:
    cells = table.frame.map(_cell)
    cells.columns = [_cell(name) for name in table.frame.columns]
    align = ["right" if name in table.numeric else "left" for name in table.frame.columns]
    options = {"tablefmt": "github", "disable_numparse": True, "colalign": align}
    if not len(cells):
        options.pop("colalign")
    rendered = str(cells.to_markdown(index=False, **options))
    n_shown = len(table.frame)
    if n_shown == table.n_rows:
        return rendered
    note = f"The first {n_shown:,} of {table.n_rows:,} rows; the CSV files in `tables` have all."
    return _join([rendered, note])


def _text(content: Cell) -> str:
    return "".join(_inline(part) for part in text(content))


def _line(content: Cell) -> str:
    """Return text that begins a block and is a paragraph: no heading, list or definition."""
    return BLOCK_START.sub(r"\g<before>\\\g<mark>", _text(content).lstrip())


def _cell(content: Cell) -> str:
    """Return text in which no bar ends the cell of a table."""
    parts = []
    for part in text(content):
        if isinstance(part, Code) and "|" in part.text:  # a backslash before a bar would be shown
            parts.append(f"<code>{_escape(part.text).replace('|', BAR)}</code>")
        else:
            parts.append(_inline(part).replace("|", "\\|"))
    return "".join(parts)


def _inline(part: Inline) -> str:
    if isinstance(part, Code):
        return _code(part.text)
    if isinstance(part, Emphasis):
        return f"**{_escape(part.text)}**"
    return _escape(part)


def _escape(plain: str) -> str:
    """Return text on one line in which no character is markup, and no address is a link."""
    plain = re.sub(r"&(?=#?\w+;)", "&amp;", one_line(plain))
    plain = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", plain)
    plain = MARKUP.sub(r"\\\g<0>", plain)
    return plain.replace("](", "]\\(")


def _code(content: str) -> str:
    content = one_line(content)
    if not content.strip(" "):
        return content  # there is no code without content
    marks = "`" * (_longest_backticks(content) + 1)
    padding = " " if "`" in content or content != content.strip(" ") else ""
    return f"{marks}{padding}{content}{padding}{marks}"


def _longest_backticks(content: str) -> int:
    return max((len(ticks) for ticks in re.findall("`+", content)), default=0)
