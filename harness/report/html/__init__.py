"""The report as a page to explore: index.html, one file that asks nothing of any network.

What `page` says in words stands here word for word; what it draws is drawn by plotly, whose script is part of the file.
"""

from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.report import sections as report
from harness.report.figures.look import look
from harness.report.html import charts, curves, entries, sections
from harness.report.html.markup import inline
from harness.report.summary import Summary


def render(summary: Summary) -> str:
    """Return index.html."""
    style = look(summary.study)
    drawn = charts.all_charts(summary, style)
    environment = Environment(
        loader=PackageLoader(__name__, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        study=summary.study.name,
        created_at=summary.created_at,
        opening=sections.opening(summary),
        table=entries.table(summary),
        rules=inline(report.RULES),
        curves=curves.payload(summary, style),
        curves_table=curves.as_table(summary),
        charts={chart.name: chart.figure for chart in drawn},
        sections=sections.all_sections(summary, drawn),
        css=_own("page.css"),
        scripts=[_own("table.js"), _plotly(), _own("charts.js")],
    )


def _own(name: str) -> Markup:
    return Markup((resources.files(__name__) / name).read_text(encoding="utf-8"))


def _plotly() -> Markup:
    return Markup((resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8"))
