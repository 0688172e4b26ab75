"""Render a document as a page: one HTML file that requests nothing from any network."""

import math
import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import resources

from jinja2 import Template
from markupsafe import Markup, escape

from harness.printable import printable
from harness.report.charts import plotly
from harness.report.charts.spec import JsonDict
from harness.report.document import (
    Block,
    Cell,
    Chart,
    Code,
    CurveExplorer,
    Details,
    Document,
    Emphasis,
    EntryTable,
    Inline,
    Note,
    Value,
    text,
)
from harness.report.render import forest
from harness.report.render.templating import content_security_policy, new_environment

FIRST_STYLE = "page.css"  # of the whole page; the others, by name, are of a part of it
WHOLE = re.compile(r"\[[^\[\]<>]{1,40}\]|[-+]?[\d.]+ (?:%|nats)")  # not to be broken by a line end
BUNDLE = "plotly-basic.min.js"


def render(document: Document, refresh_s: int | None = None) -> str:
    """Return the document as HTML; the page reloads itself every `refresh_s` seconds if given."""
    charts = {}
    curves = None
    has_table = False
    for block in _blocks(document):
        if isinstance(block, Chart) and not block.static:
            charts[block.spec.name] = plotly.render(block.spec)
        if isinstance(block, CurveExplorer):
            curves = block.data
        has_table |= isinstance(block, EntryTable)
    draws = bool(charts) or curves is not None
    # The table announces its rows when it starts, so the curves start before it.
    used = {
        "charts.js": draws,
        "curves.js": curves is not None,
        "copy.js": has_table,
        "table.js": has_table,
        "watch.js": bool(refresh_s),
    }
    page_script = _asset("templates", "page.js")
    scripts = [_asset("templates", name) for name, is_used in used.items() if is_used]
    library = _asset("vendor", BUNDLE) if draws else None  # a script adds it when it is needed
    policy = content_security_policy(filter(None, [page_script, *scripts, library]))
    return _template().render(
        document=document,
        data={"curves": curves, "charts": charts} if draws else None,
        styles=_styles(),
        policy=policy,
        page_script=page_script,
        scripts=scripts,
        plotly=library,
        refresh_s=refresh_s,
    )


@cache
def _template() -> Template:
    """Return the template of the page, compiled once."""
    environment = new_environment()
    environment.filters["inline"] = _inline_html
    environment.filters["css_string"] = _css_string
    environment.filters["table_data"] = _table_data
    environment.filters["whole"] = _whole
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["forest"] = forest.view
    environment.filters["minus"] = forest.minus
    environment.filters["sentence"] = lambda words: words[:1].upper() + words[1:]
    return environment.get_template("page.html.j2")


def _blocks(document: Document) -> Iterator[Block]:
    """Yield the blocks of all sections, with those within others."""
    for section in document.sections:
        yield from _nested(section.blocks)


def _nested(blocks: Iterable[Block]) -> Iterator[Block]:
    for block in blocks:
        yield block
        if isinstance(block, Details | Note):
            yield from _nested(block.blocks)


def _inline_html(content: Cell) -> Markup:
    return Markup("").join(_part(part) for part in text(content))


def _css_string(content: str) -> Markup:
    """Return a string of CSS, in which no character but letters and digits is as it is."""
    return Markup('"%s"') % Markup(re.sub(r"[^A-Za-z0-9 ]", _css_escape, content))


def _css_escape(match: re.Match[str]) -> str:
    return f"\\{ord(match[0]):x} "


def _table_data(table: EntryTable) -> JsonDict:
    """Return the data of the table's script besides the texts: numbers and ranks by row."""
    rows = [part for row in table.rows for part in (row, *row.contexts)]
    columns = []
    for i, column in enumerate(table.columns):
        data: JsonDict = {"name": column.name, "title": column.title}
        cells = [row.cells[i] for row in rows]
        if column.numeric:
            data["values"] = [_finite(cell.value) for cell in cells]
        elif any(cell.rank is not None for cell in cells):
            data["ranks"] = [cell.rank for cell in cells]
        columns.append(data)
    return {"columns": columns, "entries": [row.index for row in rows]}


def _finite(value: Value) -> Value:
    """Return a value without NaN, which is not JSON."""
    center = value[0] if isinstance(value, tuple) else value
    return None if center is None or not math.isfinite(center) else value


def _whole(content: Cell) -> Markup:
    """Return text in which no line ends within an interval or before a unit."""
    return Markup(WHOLE.sub(r'<span class="whole">\g<0></span>', str(_inline_html(content))))


def _part(part: Inline) -> Markup:
    if isinstance(part, Code):
        return Markup("<code>%s</code>") % printable(part.text)
    if isinstance(part, Emphasis):
        return Markup("<strong>%s</strong>") % printable(part.text)
    return escape(printable(part))


def _styles() -> list[Markup]:
    """Return the style sheets, that of the whole page first."""
    files = (resources.files(__package__) / "templates").iterdir()
    names = [file.name for file in files if file.name.endswith(".css")]
    names.sort(key=lambda name: (name != FIRST_STYLE, name))
    return [_asset("templates", name) for name in names]


def _asset(folder: str, name: str) -> Markup:
    return Markup((resources.files(__package__) / folder / name).read_text(encoding="utf-8"))
