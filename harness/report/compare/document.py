"""The report on a comparison: the answer first, then every entry, then what else differs."""

from collections.abc import Iterator, Mapping, Sequence

from harness.analysis.pairs import METRIC_NAMES
from harness.report import formatting
from harness.report.charts.style import VERDICTS
from harness.report.compare.comparison import Comparison, Difference, EntryPair
from harness.report.document import (
    Block,
    Code,
    Document,
    FirstScreen,
    Note,
    Section,
    Text,
    code_list,
    join,
    note,
    paragraph,
    text,
)
from harness.report.formatting import MISSING, count
from harness.report.sections import method, superiority
from harness.report.sections.comparison import NO_INTERVAL, NOT_COMPARABLE, REPEATS
from harness.report.sections.overview import caveat_notes
from harness.report.sections.pooled import with_unit
from harness.report.tables import table
from harness.results.records.comparisons import Quantity, SignificanceResult
from harness.results.records.entries import EntryStatus

MAX_UNMATCHED = 20  # entries that are named


def build(comparison: Comparison) -> Document:
    """Return the report on a comparison; sections without content are left out."""
    a = comparison.a
    b = comparison.b
    sections = {
        ("entries", "Entries"): _entries(comparison),
        ("settings", "Different settings"): _differences(
            comparison, "Different settings", comparison.settings_diff
        ),
        ("environment", "Different environment"): _differences(
            comparison, "Different environment", comparison.environment_diff
        ),
        ("status", "Different status"): _statuses(comparison),
        ("models", "Different models"): _models(comparison),
        ("unmatched", "Entries of only one"): _unmatched(comparison),
    }
    filled = [Section(anchor, title, list(blocks)) for (anchor, title), blocks in sections.items()]
    return Document(
        title=f"{b} against {a}",
        first=FirstScreen(
            text("What changed from ", Code(a), " to ", Code(b), ", and what did not?"),
            [_answer(comparison)],
        ),
        status=[*caveat_notes(comparison.caveats), *_notes(comparison)],
        sections=[section for section in filled if section.blocks],
        footer=text(
            f"Generated at {comparison.created_at}. All numbers are available unrounded in ",
            Code("summary.json"),
            ".",
        ),
    )


def _answer(comparison: Comparison) -> Text:
    """Return what changed in a few sentences."""
    pairs = comparison.shared
    if not pairs:
        return text("No entry has a seed that is done in both, so there is no comparison yet.")
    sentences = [
        _losses(comparison, pairs),
        _metric(pairs, "tokens_per_s"),
        _metric(pairs, "peak_memory"),
    ]
    return join(sentences, " ")


def _losses(comparison: Comparison, pairs: Sequence[EntryPair]) -> Text:
    n_entries = count(len(pairs), "entry", "entries")
    changed = [pair for pair in pairs if not pair.bitwise]
    counts = _counts(changed, "val_loss")
    if comparison.imported and counts:
        return text("Losses: ", counts, ".")
    if not changed:
        return text(f"Losses: bitwise identical in all {n_entries}.")
    identical = f"Losses: bitwise identical in {len(pairs) - len(changed)} of {n_entries}"
    incomparable = [pair.entry for pair in changed if pair.not_comparable]
    if incomparable:
        others = text("; of the others ", counts) if counts else ()
        return text(identical, others, "; not comparable: ", code_list(incomparable), ".")
    if not counts:
        return text(identical, "; a single seed gives no verdict on the others.")
    return text(identical, "; of the others ", counts, ".")


def _metric(pairs: Sequence[EntryPair], metric: Quantity) -> Text:
    name = METRIC_NAMES[metric].capitalize()
    counts = _counts(pairs, metric)
    reason = "speed_not_comparable" if metric == "tokens_per_s" else "memory_not_comparable"
    if not counts and all(getattr(pair, reason) for pair in pairs):
        return text(f"{name}: not comparable.")
    if not counts and not any(pair.verdict(metric) for pair in pairs):
        return text(f"{name}: not compared, as one of the two has none.")
    if not counts:
        return text(f"{name}: a single seed gives no verdict.")
    ratios = []
    for pair in pairs:
        ratio = pair.peak_memory_ratio
        if metric == "tokens_per_s":
            ratio = pair.tokens_per_s_ratio.ratio if pair.tokens_per_s_ratio else None
        if ratio and pair.verdict(metric):
            ratios.append(ratio)
    ends = f" ({min(ratios):.3f}x to {max(ratios):.3f}x)" if ratios else ""
    return text(f"{name}: ", counts, f"{ends}.")


def _counts(pairs: Sequence[EntryPair], metric: Quantity) -> Text:
    """Return the number of entries by verdict, with the labels of those that changed."""
    labels: dict[str, list[str]] = {}
    for pair in pairs:
        verdict = pair.verdict(metric)
        if verdict is not None and verdict.verdict:
            labels.setdefault(verdict.verdict, []).append(pair.entry)
    counts = []
    for word in VERDICTS:
        if word in labels:
            named = text(": ", code_list(labels[word])) if word in ("better", "worse") else ()
            counts.append(text(f"{len(labels[word])} {word}", named))
    return join(counts, ", ")


def _notes(comparison: Comparison) -> Iterator[Note]:
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


def _entries(comparison: Comparison) -> Iterator[Block]:
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


def _pairing(comparison: Comparison) -> str:
    """Return how the runs of both sides are matched."""
    methods = [pair.val_loss.method for pair in comparison.pairs if pair.val_loss]
    if "Welch" not in methods:
        return ", paired by seed"
    return ", not paired" if set(methods) == {"Welch"} else ", paired where two seeds match"


def _results(comparison: Comparison) -> Iterator[SignificanceResult]:
    """Yield the tests of all pairs."""
    for pair in comparison.pairs:
        for metric in METRIC_NAMES:
            result = pair.verdict(metric)
            if result is not None:
                yield result


def _word(verdict: SignificanceResult | None) -> str:
    return MISSING if verdict is None else verdict.verdict or NO_INTERVAL


def _differences(
    comparison: Comparison, caption: str, differences: Mapping[str, Difference]
) -> Iterator[Block]:
    rows = []
    for key, values in differences.items():
        rows.append([key, *(formatting.setting(key, value) for value in values)])
    if rows:
        titles = ["setting", comparison.a, comparison.b]
        yield table(caption, titles, rows, folded=False)


def _statuses(comparison: Comparison) -> Iterator[Block]:
    rows = []
    for pair in comparison.pairs:
        if pair.status[0] != pair.status[1]:
            rows.append([pair.entry, *map(_status, pair.status)])
    if rows:
        titles = ["entry", comparison.a, comparison.b]
        yield table("Different status", titles, rows, folded=False)


def _status(status: EntryStatus) -> str:
    if isinstance(status, str):
        return status
    return ", ".join(f"{n} {name}" for name, n in status.items())


def _models(comparison: Comparison) -> Iterator[Block]:
    rows = []
    for pair in comparison.pairs:
        if len(set(pair.parameters)) > 1 or len(set(pair.flops_per_token)) > 1:
            sizes = [*pair.parameters, *pair.flops_per_token]
            rows.append(
                [pair.entry, *(formatting.number(size, "{:,.0f}".format) for size in sizes)]
            )
    if rows:
        sides = (comparison.a, comparison.b)
        numeric = [f"parameters, {side}" for side in sides]
        numeric += [f"FLOPs per token, {side}" for side in sides]
        yield table("Different models", ["entry", *numeric], rows, numeric, folded=False)


def _unmatched(comparison: Comparison) -> Iterator[Block]:
    only_in = {comparison.a: comparison.only_in_a, comparison.b: comparison.only_in_b}
    for side, labels in only_in.items():
        if labels:
            yield paragraph("Only in ", Code(side), ": ", code_list(labels, MAX_UNMATCHED), ".")
