"""The report's own markdown as HTML: the few forms that the sections write, each character escaped, no form invented.

Not a markdown reader: text of a run's log, a label or a message never becomes markup.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

OPEN_ROWS = 16  # a longer table is folded
FORMS = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*")
DETAILS = re.compile(r"<details><summary>(.*)</summary>")
NUMBER = re.compile(r"^(\*\*)?[<>+\-−–\d]")


@dataclass
class _Reader:
    """The lines that are still to be read, and what tables are called."""

    lines: list[str]
    title: str
    fold: bool
    n_tables: int = 0
    open_details: int = 0
    html: list[Markup] = field(default_factory=list)


def to_html(text: str, title: str = "", fold: bool = True) -> Markup:
    """Return what a section of the report says; `title` names its tables to who does not see them."""
    reader = _Reader(text.split("\n"), title, fold)
    while reader.lines:
        reader.html.append(_block(reader))
    reader.html += [Markup("</details>")] * reader.open_details
    return Markup("\n").join(reader.html)


def inline(text: str) -> Markup:
    """Return a line with its code marks and bold parts as HTML."""
    parts, end = [], 0
    for match in FORMS.finditer(text):
        tag, inside = ("code", match[1]) if match[1] is not None else ("strong", match[2])
        parts += [escape(text[end : match.start()]), Markup(f"<{tag}>%s</{tag}>") % inside]
        end = match.end()
    return Markup("").join([*parts, escape(text[end:])])


def _block(reader: _Reader) -> Markup:
    line = reader.lines[0]
    if fence := re.match(r"(`{3,})\w*$", line):
        reader.lines.pop(0)
        text = "\n".join(_until(reader, fence[1]))
        return Markup('<pre tabindex="0"><code>%s</code></pre>') % text
    if details := DETAILS.fullmatch(line):
        reader.lines.pop(0)
        reader.open_details += 1
        return Markup("<details><summary>%s</summary>") % details[1]
    if line == "</details>" and reader.open_details:
        reader.lines.pop(0)
        reader.open_details -= 1
        return Markup("</details>")
    for start, build in ((r"\|", _table), (r"> ?", _quote), (r"- ", _list), (r"\d+\. ", _numbered)):
        if re.match(start, line):
            return build(reader, list(_taken(reader, start)))
    if heading := re.match(r"#+ (.*)", line):
        reader.lines.pop(0)
        return Markup("<h3>%s</h3>") % inline(heading[1])
    if bold := re.fullmatch(r"\*\*([^*]+)\*\*", line):
        reader.lines.pop(0)
        reader.title, reader.n_tables = bold[1], 0
        return Markup("<h3>%s</h3>") % bold[1]
    reader.lines.pop(0)
    return Markup("<p>%s</p>") % inline(line) if line.strip() else Markup("")


def _until(reader: _Reader, last: str) -> Iterator[str]:
    while reader.lines:
        line = reader.lines.pop(0)
        if line == last:
            return
        yield line


def _taken(reader: _Reader, start: str) -> Iterator[str]:
    """Take the lines that begin alike, and return them without their beginning."""
    while reader.lines and (match := re.match(start, reader.lines[0])):
        yield reader.lines.pop(0)[match.end() :]


def _quote(reader: _Reader, lines: Sequence[str]) -> Markup:
    return Markup('<div class="note">%s</div>') % to_html("\n".join(lines), reader.title)


def _list(reader: _Reader, lines: Sequence[str]) -> Markup:
    return Markup("<ul>%s</ul>") % _items(lines)


def _numbered(reader: _Reader, lines: Sequence[str]) -> Markup:
    return Markup("<ol>%s</ol>") % _items(lines)


def _items(lines: Sequence[str]) -> Markup:
    return Markup("").join(Markup("<li>%s</li>") % inline(line) for line in lines)


def _table(reader: _Reader, lines: Sequence[str]) -> Markup:
    header, _, *rows = [_cells(line) for line in lines]
    reader.n_tables += 1
    caption = reader.title + (f": {', '.join(header[1:5])}" if reader.n_tables > 1 else "")
    return _html_table(caption, header, rows, reader.fold)


def _cells(line: str) -> list[str]:
    return [
        cell.strip().replace("\\|", "|")
        for cell in re.split(r"(?<!\\)\|", line.rstrip().removesuffix("|"))
    ]


def _html_table(
    caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], fold: bool
) -> Markup:
    """Return a table that scrolls by itself, folded where it is long; the first column names the rows."""
    numeric = [all(NUMBER.match(row[i]) for row in rows) for i in range(len(header))]
    head = Markup("").join(
        _cell("th", name or "setting", number, "col")
        for name, number in zip(header, numeric, strict=True)
    )
    body = Markup("").join(
        Markup("<tr>%s</tr>\n")
        % Markup("").join(
            _cell("td" if i else "th", cell, numeric[i], "" if i else "row")
            for i, cell in enumerate(row)
        )
        for row in rows
    )
    html = Markup(
        '<div class="scroll" role="group" aria-label="%s" tabindex="0"><table>'
        '<caption class="hidden">%s</caption><thead><tr>%s</tr></thead><tbody>\n%s</tbody></table></div>'
    ) % (caption, caption, head, body)
    if not fold or len(rows) <= OPEN_ROWS:
        return html
    return Markup("<details><summary>Table of %s rows: %s</summary>%s</details>") % (
        f"{len(rows):,}",
        caption,
        html,
    )


def _cell(tag: str, text: str, number: bool, scope: str) -> Markup:
    attributes = (Markup(' scope="%s"') % scope if scope else Markup("")) + Markup(
        ' class="n"' if number else ""
    )
    return Markup(f"<{tag}%s>%s</{tag}>") % (attributes, inline(text))
