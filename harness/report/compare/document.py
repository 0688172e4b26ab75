"""The report on a comparison: the answer first, then every entry, then what else differs."""

import re
from collections.abc import Mapping, Sequence

from harness.analysis.hypotheses import METRIC_NAMES
from harness.report import formatting
from harness.report.compare.comparison import Comparison, Difference, EntryPair
from harness.report.document import (
    Block,
    Code,
    Document,
    Note,
    Section,
    Table,
    Text,
    code_list,
    join,
    paragraph,
    text,
)
from harness.report.formatting import MISSING, count, yes_no
from harness.report.sections.comparison import NO_INTERVAL
from harness.report.sections.overview import VERDICTS
from harness.report.tables import table
from harness.results.records.study_summary import EntryStatus, Quantity, SignificanceResult

MAX_UNMATCHED = 20  # entries that are named
HASH = re.compile("[0-9a-f]{40,}")


def build(comparison: Comparison) -> Document:
    """Return the report on a comparison; sections without content are left out."""
    a = comparison.a
    b = comparison.b
    sections = (
        Section("entries", "Entries", _entries(comparison)),
        Section(
            "settings",
            "Different settings",
            _differences(comparison, "Different settings", comparison.settings_diff),
        ),
        Section(
            "environment",
            "Different environment",
            _differences(comparison, "Different environment", comparison.environment_diff),
        ),
        Section("status", "Different status", _statuses(comparison)),
        Section("models", "Different models", _models(comparison)),
        Section("unmatched", "Entries of only one", _unmatched(comparison)),
    )
    return Document(
        title=f"{b} against {a}",
        question=text("What changed from ", Code(a), " to ", Code(b), ", and what did not?"),
        answer=_answer(comparison),
        status=_notes(comparison),
        sections=tuple(section for section in sections if section.blocks),
        footer=text(
            f"Generated at {comparison.created_at}. All numbers are available unrounded in ",
            Code("summary.json"),
            ".",
        ),
    )


def _shared(comparison: Comparison) -> list[EntryPair]:
    return [pair for pair in comparison.pairs if pair.seeds]


def _answer(comparison: Comparison) -> Text:
    """Return what changed in a few sentences."""
    pairs = _shared(comparison)
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
    if not changed:
        return text(f"Losses: bitwise identical in all {n_entries}.")
    identical = f"Losses: bitwise identical in {len(pairs) - len(changed)} of {n_entries}"
    if not comparison.losses_comparable:
        return text(identical, ".")
    counts = _counts(changed, "val_loss")
    if not counts:
        return text(identical, "; a single seed gives no verdict on the others.")
    return text(identical, "; of the others ", counts, ".")


def _metric(pairs: Sequence[EntryPair], metric: Quantity) -> Text:
    name = METRIC_NAMES[metric].capitalize()
    counts = _counts(pairs, metric)
    if not counts:
        return text(f"{name}: a single seed gives no verdict.")
    ratios = []
    for pair in pairs:
        if pair.verdict(metric) is None:
            continue
        if metric == "peak_memory" and pair.peak_memory_ratio:
            ratios.append(pair.peak_memory_ratio)
        if metric == "tokens_per_s" and pair.tokens_per_s_ratio:
            ratios.append(pair.tokens_per_s_ratio.ratio)
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


def _notes(comparison: Comparison) -> tuple[Block, ...]:
    if not _shared(comparison):
        return ()
    sentences = []
    if not comparison.same_machine:
        sentences.append(
            "The two did not run on the same machine with the same number of threads (see "
            "below), so differences in speed are also differences between the machines."
        )
    if not comparison.losses_comparable:
        sentences.append(
            "They were validated on different texts or tokens, so their losses are not comparable."
        )
    elif comparison.settings_diff:
        sentences.append("Settings differ (see below) and may explain differences in the loss.")
    return tuple(Note((paragraph(sentence),)) for sentence in sentences)


def _entries(comparison: Comparison) -> tuple[Block, ...]:
    if not comparison.pairs:
        return ()
    stated = [
        f"{name} {comparison.margins[metric]:g}"
        for metric, name in METRIC_NAMES.items()
        if metric in comparison.margins
    ]
    method = paragraph(
        Code(comparison.b),
        " against ",
        Code(comparison.a),
        ", paired by seed: differences are the former minus the latter, ratios the former over the "
        "latter, intervals 95 %. Verdicts are determined as in the report of a study, corrected "
        "(Holm) over all entries; losses under other parallelisms repeat the same comparison. "
        f"Margins: {', '.join(stated) or 'none'}.",
    )
    numeric = ["difference in val loss", "tokens/s ×", "peak memory ×"]
    titles = ["entry", "seeds", "loss", "throughput", "memory", *numeric]
    rows = [_row(pair) for pair in comparison.pairs]
    return (method, table("Comparison of each entry", titles, rows, numeric, folded=False))


def _row(pair: EntryPair) -> list[str]:
    loss = pair.val_loss.difference if pair.val_loss else None
    speed = pair.tokens_per_s_ratio
    return [
        pair.entry,
        f"{len(pair.seeds)}",
        "bitwise" if pair.bitwise else _word(pair.val_loss),
        _word(pair.tokens_per_s),
        _word(pair.peak_memory),
        formatting.difference(loss.mean, *(loss.ci95 or ())) if loss else MISSING,
        formatting.ratio(speed.ratio, *speed.ci95) if speed else MISSING,
        formatting.ratio(pair.peak_memory_ratio),
    ]


def _word(verdict: SignificanceResult | None) -> str:
    return MISSING if verdict is None else verdict.verdict or NO_INTERVAL


def _differences(
    comparison: Comparison, caption: str, differences: Mapping[str, Difference]
) -> tuple[Table, ...]:
    rows = [[key, _value(of_a), _value(of_b)] for key, (of_a, of_b) in differences.items()]
    return _side_by_side(comparison, caption, "setting", rows)


def _side_by_side(
    comparison: Comparison, caption: str, title: str, rows: Sequence[Sequence[str]]
) -> tuple[Table, ...]:
    if not rows:
        return ()
    return (table(caption, [title, comparison.a, comparison.b], rows, folded=False),)


def _value(value: object) -> str:
    if value is None:
        return MISSING
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value)
    if isinstance(value, bool):
        return yes_no(value)
    shown = str(value)
    return shown[:12] if HASH.fullmatch(shown) else shown


def _statuses(comparison: Comparison) -> tuple[Table, ...]:
    rows = [
        [pair.entry, *map(_status, pair.status)]
        for pair in comparison.pairs
        if pair.status[0] != pair.status[1]
    ]
    return _side_by_side(comparison, "Different status", "entry", rows)


def _status(status: EntryStatus) -> str:
    if isinstance(status, str):
        return status
    return ", ".join(f"{n} {name}" for name, n in status.items())


def _models(comparison: Comparison) -> tuple[Table, ...]:
    rows = []
    for pair in comparison.pairs:
        parameters = [f"{n:,}" for n in pair.parameters]
        flops = [f"{n:,.0f}" for n in pair.flops_per_token]
        if len(set(pair.parameters)) > 1 or len(set(pair.flops_per_token)) > 1:
            rows.append([pair.entry, *parameters, *flops])
    if not rows:
        return ()
    sides = (comparison.a, comparison.b)
    numeric = [f"parameters, {side}" for side in sides]
    numeric += [f"FLOPs per token, {side}" for side in sides]
    return (table("Different models", ["entry", *numeric], rows, numeric, folded=False),)


def _unmatched(comparison: Comparison) -> tuple[Block, ...]:
    return tuple(
        paragraph("Only in ", Code(side), ": ", code_list(labels, MAX_UNMATCHED), ".")
        for side, labels in (
            (comparison.a, comparison.only_in_a),
            (comparison.b, comparison.only_in_b),
        )
        if labels
    )
