"""The report of a study as a document."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from harness.analysis.summary import Summary
from harness.report.charts.spec import ChartSpec
from harness.report.document import Block, Code, Document, Heading, Section, text
from harness.report.formatting import count
from harness.report.sections import (
    Charts,
    answer,
    budgets,
    comparison,
    contexts,
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

Builder = Callable[[Summary, Charts], Iterator[Block]]

# by anchor on the page and title: the parts with their headings, of which the first may have none
SECTIONS: Mapping[tuple[str, str], Mapping[str, Builder]] = {
    ("entries", "Results"): {
        "": entries.build,
        "Loss by corpus": corpora.build,
        "Other sequence lengths": probes.eval_lengths,
        "Tasks": probes.tasks,
    },
    ("curves", "Loss curves"): {"": curves.build},
    ("comparison", "Comparison with the baseline"): {
        "": comparison.losses,
        "Throughput and memory": comparison.costs,
    },
    ("effects", "Effects"): {"": effects.effects, "Sources of noise": effects.variance},
    ("budgets", "Equal budgets"): {"": budgets.build},
    ("ladder", "Scaling with size"): {"": ladder.build},
    ("tuning", "Tuning"): {"": tuning.build},
    ("contexts", contexts.CONTEXTS): {
        "": contexts.build,
        "Pooled over contexts": pooled.build,
        equivalence.TITLE: equivalence.build,
        "Step time by phase": costs.phases_by_context,
        "Communication": costs.communication,
        "Strong scaling": costs.scaling,
    },
    ("costs", "Costs"): {
        "": costs.throughput,
        "Memory": costs.memory,
        "Step time breakdown": costs.step_breakdown,
        "FLOPs": costs.flops,
        "Decoding": probes.decoding,
    },
    ("stability", "Stability"): {"": stability.build},
    ("runs", "Runs"): {
        "Unfinished runs": runs.failures,
        "Settings": runs.settings,
        "Environment": runs.environment,
        "Compilation": runs.compilation,
        "Initialization": runs.initialization,
        "Order of runs": runs.launches,
        "Import": runs.source,
    },
}


def build(summary: Summary, charts: Iterable[ChartSpec]) -> Document:
    """Return the report of a study; sections without content are left out."""
    by_name = {chart.name: chart for chart in charts}
    sections = []
    for (anchor, title), parts in SECTIONS.items():
        blocks: list[Block] = []
        for heading, build_blocks in parts.items():
            blocks += _part(heading, list(build_blocks(summary, by_name)))
        if blocks:
            shown = contexts.title(summary) if title == contexts.CONTEXTS else title
            sections.append(Section(anchor, shown, blocks))
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


def _part(heading: str, blocks: Sequence[Block]) -> Iterator[Block]:
    """Yield the blocks of a part below its heading, if it has any."""
    if heading and blocks:
        yield Heading(heading)
    for block in blocks:
        if heading and isinstance(block, Heading):
            block = Heading(block.text, 4)
        yield block
