"""Render a document as a page: one HTML file that requests nothing from any network."""

from collections.abc import Iterable, Iterator
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from harness.report.charts import plotly
from harness.report.document import (
    Block,
    Cell,
    Chart,
    Code,
    CurveExplorer,
    Details,
    Document,
    Emphasis,
    Inline,
    Note,
    text,
)


def render(document: Document, refresh_s: int | None = None) -> str:
    """Return the document as HTML; the page reloads itself every `refresh_s` seconds if given."""
    blocks = list(_all_blocks(document))
    charts = {
        block.spec.name: plotly.render(block.spec)
        for block in blocks
        if isinstance(block, Chart) and not block.static
    }
    curves = next((block.data for block in blocks if isinstance(block, CurveExplorer)), None)
    scripts: list[Markup] = []
    if charts or curves is not None:
        scripts = [_asset("table.js"), _plotly_js(), _asset("charts.js")]
    if refresh_s:
        scripts.append(_asset("watch.js"))
    environment = Environment(
        loader=PackageLoader("harness.report.render"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = _inline_html
    environment.filters["kind"] = lambda block: type(block).__name__
    return environment.get_template("page.html.j2").render(
        document=document,
        data={"curves": curves, "charts": charts},
        css=_asset("page.css"),
        scripts=scripts,
        refresh_s=refresh_s,
    )


def _all_blocks(document: Document) -> Iterator[Block]:
    yield from _nested(document.status)
    for section in document.sections:
        yield from _nested(section.blocks)


def _nested(blocks: Iterable[Block]) -> Iterator[Block]:
    for block in blocks:
        yield block
        if isinstance(block, Note | Details):
            yield from _nested(block.blocks)


def _inline_html(content: Cell) -> Markup:
    return Markup("").join(_part(part) for part in text(content))


def _part(part: Inline) -> Markup:
    if isinstance(part, Code):
        return Markup("<code>%s</code>") % part.text
    if isinstance(part, Emphasis):
        return Markup("<strong>%s</strong>") % part.text
    return escape(part)


def _asset(name: str) -> Markup:
    return Markup((resources.files(__package__) / "templates" / name).read_text(encoding="utf-8"))


def _plotly_js() -> Markup:
    script = resources.files("plotly") / "package_data" / "plotly.min.js"
    return Markup(script.read_text(encoding="utf-8"))
