"""The report on a comparison: the answer first, then every entry, then what else differs."""

from collections.abc import Iterable, Iterator, Sequence

from harness.analysis.pairs import METRIC_NAMES
from harness.report import formatting
from harness.report.charts.spec import ChartSpec
from harness.report.compare import changes, first_screen
from harness.report.compare.differences import FileDifference
from harness.report.document import (
    Block,
    Chart,
    Code,
    Document,
    Note,
    Section,
    code_list,
    note,
    paragraph,
    text,
)
from harness.report.formatting import MISSING
from harness.report.sections import method, superiority
from harness.report.sections.comparison import NO_INTERVAL, NOT_COMPARABLE, REPEATS
from harness.report.sections.overview import caveat_notes
from harness.report.sections.pooled import with_unit
from harness.report.tables import table
from harness.results.records.comparisons import SignificanceResult
from harness.results.records.study_comparison import EntryPair, StudyComparison

MAX_UNMATCHED = 20  # entries that are named


def build(
    comparison: StudyComparison,
    charts: Iterable[ChartSpec],
    files: Sequence[FileDifference],
    left_out: Iterable[Note],
) -> Document:
    """Return the report on a comparison; sections without content are left out.

    `left_out` are notes on runs that could not be read.
    """
    a = comparison.a
    b = comparison.b
    by_name = {chart.name: chart for chart in charts}
    answer = by_name.pop("answer", None)
    curves = by_name.pop("curves", None)
    sections = {
        ("entries", "Entries"): _entries(comparison),
        ("curves", "Loss curves"): [Chart(curves)] if curves else [],
        ("costs", "Throughput and memory"): [Chart(chart) for chart in by_name.values()],
        ("changes", "What changed"): changes.build(comparison, files),
        ("unmatched", "Entries of only one"): _unmatched(comparison),
    }
    filled = [Section(anchor, title, list(blocks)) for (anchor, title), blocks in sections.items()]
    return Document(
        title=f"{b} against {a}",
        first=first_screen.build(comparison, answer),
        status=[*caveat_notes(comparison.caveats), *_notes(comparison), *left_out],
        sections=[section for section in filled if section.blocks],
        footer=text(
            f"Generated at {comparison.created_at}. All numbers are available unrounded in ",
            Code("summary.json"),
            ".",
        ),
    )


def _notes(comparison: StudyComparison) -> Iterator[Note]:
    if not comparison.shared:
        return
    if comparison.imported:
        yield note(
            "Imported from results of another trainer: ",
            code_list(comparison.imported),
            ". The validation text, the training budget and the hardware are not checked. "
            "The verdicts assume that both studies measure the same quantity in the same way.",
        )
    reasons = _by_reason(comparison.shared, "not_comparable")
    for reason, entries in reasons.items():
        yield note(f"Losses are not comparable, {reason}: ", code_list(entries, MAX_UNMATCHED))
    for reason, entries in _by_reason(comparison.shared, "speed_not_comparable").items():
        yield note(f"Throughputs are not comparable, {reason}: ", code_list(entries, MAX_UNMATCHED))
    for reason, entries in _by_reason(comparison.shared, "memory_not_comparable").items():
        yield note(
            f"Peaks of memory are not comparable, {reason}: ", code_list(entries, MAX_UNMATCHED)
        )
    if any(pair.val_loss and pair.val_loss.unit for pair in comparison.shared):
        yield note("Losses under different tokenizers are compared in bits per byte.")
    budgets: dict[tuple[int | None, int | None], list[str]] = {}
    for pair in comparison.shared:
        is_known = None not in pair.training_tokens
        if is_known and len(set(pair.training_tokens)) > 1 and not pair.not_comparable:
            budgets.setdefault(pair.training_tokens, []).append(pair.entry)
    for (of_a, of_b), entries in budgets.items():
        yield note(
            f"Trained on {of_b:,} tokens in ",
            Code(comparison.b),
            f", on {of_a:,} in ",
            Code(comparison.a),
            ": differences in the loss include those of the training budgets: ",
            code_list(entries, MAX_UNMATCHED),
        )
    if not reasons and comparison.settings_diff:
        yield note("Settings differ (see below) and may explain differences in the loss.")


def _by_reason(pairs: Sequence[EntryPair], field: str) -> dict[str, list[str]]:
    """Return the entries that are not comparable, by the reason."""
    entries: dict[str, list[str]] = {}
    for pair in pairs:
        reason = getattr(pair, field)
        if reason:
            entries.setdefault(reason, []).append(pair.entry)
    return entries


def _entries(comparison: StudyComparison) -> Iterator[Block]:
    margins = [
        f"{name} {comparison.margins[metric]:g}"
        for metric, name in METRIC_NAMES.items()
        if metric in comparison.margins
    ]
    yield paragraph(
        Code(comparison.b),
        " against ",
        Code(comparison.a),
        f"{_pairing(comparison)}: differences are the former minus the latter, ratios the former "
        f"over the latter. {method.INTERVALS} Of losses under several parallelisms, which repeat "
        f"the same comparison, one is tested. Margins: {', '.join(margins) or 'none'}. Tests: ",
        method.names(_results(comparison)),
        " (definitions: ",
        Code(method.REFERENCE),
        ").",
    )
    asked = superiority.titles(comparison.superiority)
    rows = []
    for pair in comparison.pairs:
        difference = MISSING
        if pair.val_loss:
            loss = pair.val_loss.difference
            low, high = loss.ci95 or (None, None)
            shown = formatting.difference(loss.mean, low, high)
            difference = with_unit(shown, pair.val_loss.unit)
        ratio = MISSING
        if pair.tokens_per_s_ratio:
            speed = pair.tokens_per_s_ratio
            low, high = speed.ci95 or (None, None)
            ratio = formatting.tested_ratio(speed.ratio, low, high)
        words = [_word(pair.val_loss), _word(pair.tokens_per_s), _word(pair.peak_memory)]
        if pair.repeats and pair.val_loss is None and pair.seeds:
            words[0] = REPEATS + pair.repeats
        if pair.not_comparable:
            words[0] = NOT_COMPARABLE
        elif pair.bitwise:
            words[0] = "bitwise"
        if pair.speed_not_comparable:
            words[1] = NOT_COMPARABLE
        if pair.memory_not_comparable:
            words[2] = NOT_COMPARABLE
        memory = formatting.number(pair.peak_memory_ratio, formatting.ratio)
        superior = []
        for metric in asked:
            test = pair.verdict(metric)
            superior.append((test.superior if test else None) or MISSING)
        counted = f"{len(pair.seeds)}"
        if pair.val_loss and pair.val_loss.method == "Welch":
            counted = "unpaired"
        rows.append([pair.entry, counted, *words, *superior, difference, ratio, memory])
    numeric = ["difference in val loss", "tokens/s ×", "peak memory ×"]
    titles = ["entry", "seeds", "loss", "throughput", "memory", *asked.values(), *numeric]
    yield table("Comparison of each entry", titles, rows, numeric, folded=False)


def _pairing(comparison: StudyComparison) -> str:
    """Return how the runs of both sides are matched."""
    methods = [pair.val_loss.method for pair in comparison.pairs if pair.val_loss]
    if "Welch" not in methods:
        return ", paired by seed"
    return ", not paired" if set(methods) == {"Welch"} else ", paired where two seeds match"


def _results(comparison: StudyComparison) -> Iterator[SignificanceResult]:
    """Yield the tests of all pairs."""
    for pair in comparison.pairs:
        for metric in METRIC_NAMES:
            result = pair.verdict(metric)
            if result is not None:
                yield result


def _word(verdict: SignificanceResult | None) -> str:
    return MISSING if verdict is None else verdict.verdict or NO_INTERVAL


def _unmatched(comparison: StudyComparison) -> Iterator[Block]:
    only_in = {comparison.a: comparison.only_in_a, comparison.b: comparison.only_in_b}
    for side, labels in only_in.items():
        if labels:
            yield paragraph("Only in ", Code(side), ": ", code_list(labels, MAX_UNMATCHED), ".")
