"""The answer as a forest plot: each candidate's difference from the baseline, and its costs."""

from collections.abc import Iterator, Sequence

from harness.analysis.answer import BASELINE, depends_on_context
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.charts.effects import margin_bounds, superiority_bound
from harness.report.charts.spec import Axis, ChartSpec, CostBar, Forest, ForestRow, MarkStyle
from harness.report.charts.style import GREY, VERDICTS, choose_style
from harness.report.formatting import MIB, count
from harness.results.records.answer import AnswerRow, Cost
from harness.results.records.comparisons import LossUnit

MAX_ROWS = 12  # that a screen shows without scrolling
COSTS = ("tokens/s", "peak memory, MiB", "parameters")
WITHOUT_VERDICT = MarkStyle(GREY, marker="circle-open")


def build(summary: Summary) -> Iterator[ChartSpec]:
    """Return the forest plot, if any candidate has a difference from a baseline."""
    all_rows = plotted_rows(summary)
    if not any(row.difference for row in all_rows):
        return
    tests = summary.metric_tests["val_loss"]
    unit = common_unit(all_rows)
    answer_rows = shown_rows(all_rows)
    style = choose_style(summary.study)
    by_label = {entry.label: entry for entry in summary.study.entries}
    rows = [_row(row, unit, swatch=style.mark(by_label[row.entry]).colour) for row in answer_rows]
    n_more = len(all_rows) - len(rows)
    margin = margin_bounds(tests)
    threshold = superiority_bound(tests)
    title = "Validation loss against the baseline"
    subtitle = "paired by seed; left is better; line: 95 % interval, for all rows at once"
    if margin is not None:
        subtitle += "; grey: equivalence margin"
    if threshold is not None:
        subtitle += "; dashed: threshold of superiority"
    note = " Bars: costs, with 95 % intervals over seeds and the change from the baseline."
    if summary.answer.by_context:
        contexts = " and ".join(summary.study.contexts)
        note += f" One row per {contexts} where the difference depends on it."
    yield ChartSpec(
        name="answer",
        title=title,
        subtitle=subtitle,
        note=note,
        alt=_alt(all_rows, n_more),
        plot=Forest(Axis(f"difference, {unit}"), rows, COSTS, margin, threshold, n_more),
    )


def plotted_rows(summary: Summary) -> list[AnswerRow]:
    """Return a row for each candidate, or for each context if the difference depends on it."""
    rows = []
    for row in summary.answer.rows:
        contexts = []
        if depends_on_context(row):
            contexts = [one for one in summary.answer.by_context if one.entry in row.entries]
        rows += contexts or [row]
    return rows


def common_unit(rows: Sequence[AnswerRow]) -> LossUnit:
    """Return the unit of the most rows."""
    units = [row.unit for row in rows if row.difference is not None]
    if units.count("bits per byte") > units.count("nats per token"):
        return "bits per byte"
    return "nats per token"


def shown_rows(rows: Sequence[AnswerRow]) -> list[AnswerRow]:
    """Return the first rows and the baseline's, `MAX_ROWS` in all."""
    first = list(rows[:MAX_ROWS])
    baselines = [row for row in rows[MAX_ROWS:] if row.reason == BASELINE][:1]
    return first[: MAX_ROWS - len(baselines)] + baselines


def _row(row: AnswerRow, unit: LossUnit, swatch: str) -> ForestRow:
    style = VERDICTS[row.verdict] if row.verdict else WITHOUT_VERDICT
    shown = ""
    value = None
    interval = None
    if row.difference is not None:
        low, high = row.difference.ci95 or (None, None)
        shown = formatting.brief_difference(row.difference.mean, low, high)
        if row.unit == unit:
            value = row.difference.mean
            interval = row.difference.ci95
        else:
            shown = f"{shown} {row.unit}"
    return ForestRow(
        name=candidate_title(row),
        entry=row.entry,
        verdict=row.verdict or row.reason or "",
        text=shown,
        style=style,
        swatch=swatch,
        value=value,
        interval=interval,
        costs=[
            _bar(row.tokens_per_s, 1.0),
            _bar(row.peak_memory, MIB),
            _bar(row.parameters, 1.0),
        ],
    )


def candidate_title(row: AnswerRow) -> str:
    """Return the name of a candidate without its context, stamped with its caveats."""
    return stamped(row.title or row.entry, row)


def stamped(name: str, row: AnswerRow) -> str:
    """Return a name with the stamps of a candidate's caveats: rope [unstable]."""
    return f"{name} [{', '.join(row.stamps)}]" if row.stamps else name


def gain(row: AnswerRow) -> str:
    """Return the size of a resolved difference: 0.29 nats [0.25, 0.32]."""
    assert row.difference is not None
    unit = "nats" if row.unit == "nats per token" else row.unit
    return formatting.brief_gain(row.difference.mean, row.difference.ci95, unit)


def _bar(cost: Cost, unit: float) -> CostBar:
    if cost.value is None:
        return CostBar(cost.reason or formatting.MISSING)
    interval = None
    if cost.ci95 is not None:
        interval = (cost.ci95[0] / unit, cost.ci95[1] / unit)
    return CostBar(
        text=formatting.compact(cost.value / unit),
        value=cost.value / unit,
        interval=interval,
        change="" if cost.change is None else formatting.brief_percent(cost.change),
        verdict=cost.verdict or "",
    )


def _alt(rows: Sequence[AnswerRow], n_more: int) -> str:
    """Return how many candidates have which verdict, and the first one that is better."""
    compared = [row for row in rows if row.reason != BASELINE]
    words = [row.verdict or "without a verdict" for row in compared]
    counts = [f"{words.count(word)} {word}" for word in dict.fromkeys(words)]
    text = f"Forest plot of {count(len(compared), 'candidate')}: {', '.join(counts)}"
    best = next((row for row in compared if row.verdict == "better"), None)
    if best is not None and best.difference is not None:
        text += f"; best: {candidate_title(best)}, {gain(best)} lower"
    return text + (f". {n_more} are not shown." if n_more else ".")
