"""The report as a page to explore: index.html, one file that asks nothing of any network.

What `page` says in words stands here word for word; what it draws is drawn by plotly, whose script is part of the file.
"""

from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from harness.analysis.summary import Summary
from harness.report.charts import ChartSpec, curve_explorer, plotly
from harness.report.compare import page as versus_page
from harness.report.compare.differences import Versus
from harness.report.html import entries, sections
from harness.report.html.markup import inline, to_html
from harness.report.sections import comparison as report


def render(summary: Summary, charts: list[ChartSpec], refresh_s: int | None = None) -> str:
    """Return index.html; it reads itself again every `refresh_s` seconds, where that is given."""
    shown = sections.all_sections(summary, charts)
    figures = {chart.name: plotly.render(chart) for section in shown for chart in section.charts}
    return _template("page.html.j2").render(
        study=summary.study.name,
        created_at=summary.created_at,
        opening=sections.opening(summary),
        table=entries.table(summary),
        rules=inline(report.RULES),
        curves=curve_explorer.payload(summary),
        curves_table=sections.curves_table(summary),
        charts=figures,
        sections=shown,
        css=_own("page.css"),
        refresh_s=refresh_s,
        scripts=[
            _own("table.js"),
            _plotly(),
            _own("charts.js"),
            *([_own("watch.js")] if refresh_s else []),
        ],
    )


def render_versus(found: Versus) -> str:
    """Return index.html of the comparison of two studies."""
    told = [
        sections.section(name, title, [], text, fold=False)
        for name, title, text in versus_page.sections(found)
    ]
    return _template("versus.html.j2").render(
        a=found.a,
        b=found.b,
        created_at=found.created_at,
        answer=[to_html(text) for text in versus_page.answer(found)],
        sections=told,
        css=_own("page.css"),
    )


def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader(__name__, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _own(name: str) -> Markup:
    return Markup((resources.files(__name__) / name).read_text(encoding="utf-8"))


def _plotly() -> Markup:
    return Markup(
        (resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    )
