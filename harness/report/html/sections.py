"""What the page says in words and tables, taken from the report's sections, and where its charts stand among them."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from harness.analysis.summary import Summary
from harness.report import formatting as cells
from harness.report import page
from harness.report.charts import ChartSpec, curve_explorer
from harness.report.html.markup import inline, to_html
from harness.report.sections import appendix
from harness.report.sections import comparison as report
from harness.report.sections import parallelism as spread
from harness.report.sections import summary as answers


@dataclass(frozen=True)
class Opening:
    """The question, its answer, and how far the study is."""

    question: Markup
    answer: Markup
    state: Markup


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading; the charts stand before the words."""

    name: str
    title: str
    charts: list[ChartSpec]
    body: Markup


def opening(summary: Summary) -> Opening:
    """Return the top of the page."""
    return Opening(
        inline(_question(summary)), inline(answers.in_short(summary)), to_html(page.state(summary))
    )


def _question(summary: Summary) -> str:
    study = summary.study
    axes = ", ".join(axis for axis in study.levels if len(study.levels[axis]) > 1)
    against = cells.listing(list(dict.fromkeys(c.against for c in summary.comparisons)))
    if not axes or not against:
        return "What does each entry reach, and at what cost?"
    differ = f"{cells.count(len(summary.comparisons), 'entry', 'entries')} that differ in {axes}"
    return f"Which of {differ} reach a lower loss than {against}, by how much, and at what cost?"


def all_sections(summary: Summary, charts: Sequence[ChartSpec]) -> list[Section]:
    """Return the sections after the entries and the loss curves, but for those that have nothing to say."""
    drawn = {chart.name: chart for chart in charts}
    wanted: tuple[tuple[str, str, list[str], str], ...] = (
        ("tradeoff", "Throughput against loss", ["throughput_loss", "throughput"], ""),
        ("baseline", "", ["differences"], answers.verdicts(summary, {})),
        (
            "effects",
            "",
            ["effects_val_loss", "effects_tokens_per_s", "effects_peak_memory"],
            answers.effects(summary, {}),
        ),
        ("memory", "", ["memory"], report.costs(summary, {})),
        ("traffic", "", ["traffic"], spread.traffic(summary, {})),
        ("decoding", "", ["decode_time", "decode_cache"], report.decoding(summary, {})),
        ("lengths", "", ["length_loss", "position_loss"], report.lengths(summary, {})),
        ("phases", "", ["phases"], spread.phases(summary, {})),
        ("scaling", "", ["scaling"], spread.scaling(summary, {})),
        ("equivalence", "", [], report.equivalence(summary, {})),
        ("unfinished", "", [], appendix.unfinished(summary, {})),
        ("rankings", "", [], answers.rankings(summary, {})),
        ("variance", "", [], answers.variance(summary, {})),
        ("machine", "", [], appendix.machine(summary, {})),
        ("start", "", [], appendix.start(summary, {})),
        ("settings", "", [], appendix.settings(summary, {})),
        ("again", "", [], appendix.launches(summary, {})),
    )
    found = [
        section(name, title, [drawn[key] for key in keys if key in drawn], text)
        for name, title, keys, text in wanted
    ]
    return [one for one in found if one.charts or one.body]


def curves_table(summary: Summary) -> Markup:
    """Return the validation losses at five evaluations, for those who do not see the curves."""
    rows = curve_explorer.quarter_losses(summary)
    if not rows:
        return Markup("<p>No run is done yet, so there are no curves.</p>")
    cells_of_rows = [[label, *(f"{loss:.4f}" for loss in losses)] for label, losses in rows]
    return to_html(
        cells.table(["entry", *curve_explorer.QUARTERS], cells_of_rows),
        "Validation loss, mean of the seeds, at five evaluations",
    )


def section(
    name: str, title: str, charts: list[ChartSpec], text: str, fold: bool = True
) -> Section:
    """Return a section from what the report writes, its heading taken off; unless told otherwise long tables fold."""
    if text:
        heading, _, text = text.partition("\n\n")
        title = title or heading.lstrip("# ")
    return Section(name, title, charts, to_html(text, title, fold))
