"""The report of a study as a document."""

from collections.abc import Callable, Iterable, Iterator

from harness.analysis.summary import Summary
from harness.report.charts.spec import ChartSpec
from harness.report.document import Block, Code, Document, Section, text
from harness.report.formatting import count
from harness.report.sections import (
    Charts,
    answer,
    budgets,
    comparison,
    corpora,
    costs,
    curves,
    effects,
    entries,
    equivalence,
    ladder,
    overview,
    pooled,
    probes,
    runs,
    stability,
    tuning,
)

SECTIONS: dict[tuple[str, str], Callable[[Summary, Charts], Iterator[Block]]] = {
    ("entries", "Results"): entries.build,
    ("curves", "Loss curves"): curves.build,
    ("stability", "Stability"): stability.build,
    ("comparison", "Comparison with the baseline"): comparison.build,
    ("pooled", "Pooled over contexts"): pooled.build,
    ("effects", "Effects"): effects.effects,
    ("budgets", "Equal budgets"): budgets.build,
    ("ladder", "Scaling with size"): ladder.build,
    ("tuning", "Tuning"): tuning.build,
    ("variance", "Sources of noise"): effects.variance,
    ("equivalence", equivalence.TITLE): equivalence.build,
    ("corpora", "Loss by corpus"): corpora.build,
    ("eval-lengths", "Other sequence lengths"): probes.eval_lengths,
    ("step-breakdown", "Step time breakdown"): costs.step_breakdown,
    ("communication", "Communication"): costs.communication,
    ("scaling", "Scaling"): costs.scaling,
    ("memory", "Memory"): costs.memory,
    ("flops", "FLOPs"): costs.flops,
    ("decoding", "Decoding"): probes.decoding,
    ("failures", "Unfinished runs"): runs.failures,
    ("environment", "Environment"): runs.environment,
    ("compilation", "Compilation"): runs.compilation,
    ("initialization", "Initialization"): runs.initialization,
    ("settings", "Settings"): runs.settings,
    ("launches", "Order of runs"): runs.launches,
    ("import", "Import"): runs.source,
}  # by anchor on the page and title


def build(summary: Summary, charts: Iterable[ChartSpec]) -> Document:
    """Return the report of a study; sections without content are left out."""
    by_name = {chart.name: chart for chart in charts}
    sections = []
    for (anchor, title), build_blocks in SECTIONS.items():
        blocks = list(build_blocks(summary, by_name))
        if blocks:
            sections.append(Section(anchor, title, blocks))
    name = summary.study.name
    n_done = sum(run.status == "done" for run in summary.study.runs)
    return Document(
        title=name,
        first=answer.build(summary, by_name),
        progress=f"{n_done:,} of {count(len(summary.study.runs), 'run')} done",
        status=list(overview.status(summary)),
        sections=sections,
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
