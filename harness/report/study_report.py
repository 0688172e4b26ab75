"""The report of a study as a document."""

from collections.abc import Iterable

from harness.analysis.summary import Summary
from harness.report.charts.spec import ChartSpec
from harness.report.document import Code, Document, Section, text
from harness.report.sections import (
    Builder,
    budgets,
    communication,
    comparison,
    curves,
    decoding,
    effects,
    entries,
    environment,
    equivalence,
    eval_lengths,
    failures,
    flops,
    initialization,
    launches,
    memory,
    overview,
    scaling,
    settings,
    step_breakdown,
    variance,
)

BUILDERS: tuple[Builder, ...] = (
    entries.build,
    curves.build,
    comparison.build,
    effects.build,
    budgets.build,
    variance.build,
    equivalence.build,
    eval_lengths.build,
    step_breakdown.build,
    communication.build,
    scaling.build,
    memory.build,
    flops.build,
    decoding.build,
    failures.build,
    environment.build,
    initialization.build,
    settings.build,
    launches.build,
)


def build(summary: Summary, charts: Iterable[ChartSpec]) -> Document:
    """Return the report of a study; sections without content are left out."""
    by_name = {chart.name: chart for chart in charts}
    sections: list[Section] = []
    for build_section in BUILDERS:
        section = build_section(summary, by_name)
        if section:
            sections.append(section)
    name = summary.study.name
    return Document(
        title=name,
        question=overview.question(summary),
        answer=overview.headline(summary),
        status=overview.status_paragraph(summary),
        sections=tuple(sections),
        footer=text(
            f"Generated at {summary.created_at} from the results of ",
            Code(name),
            ". All numbers are available unrounded: the CSV files in ",
            Code("tables"),
            " and ",
            Code("summary.json"),
            ".",
        ),
    )
