"""What the comparison of two studies says: the answer first, then what differs, then every entry."""

import re
from collections import Counter
from typing import Any

from harness.analysis.hypotheses import METRIC_NAMES, Quantity
from harness.analysis.significance import SignificanceResult
from harness.report import formatting as cells
from harness.report.compare.differences import Pair, Versus
from harness.report.formatting import NONE, count, difference, join, listing, ratio
from harness.report.sections.summary import WORDS


def render(found: Versus) -> str:
    """Return report.md."""
    return (
        join(
            f"# {found.b} against {found.a}",
            *answer(found),
            *(text for _, _, text in sections(found)),
        )
        + "\n"
    )


def sections(found: Versus) -> list[tuple[str, str, str]]:
    """Return the name, the title and the text of each section that has something to say."""
    wanted = (
        ("entries", "Entry by entry", _entries(found)),
        ("settings", "Settings that differ", _facts(found, found.settings)),
        (
            "surroundings",
            "Machine, versions and commit that differ",
            _facts(found, found.surroundings),
        ),
        ("failures", "Ended otherwise", _statuses(found)),
        ("models", "Models that differ", _models(found)),
        ("unmatched", "Only in one", _unmatched(found)),
    )
    return [(name, title, join(f"## {title}", text)) for name, title, text in wanted if text]


def answer(found: Versus) -> list[str]:
    """Return in a few sentences what changed."""
    both = [pair for pair in found.pairs if pair.seeds]
    if not both:
        return ["No entry of both has a seed done in both: there is nothing to compare yet."]
    told = [_losses(found, both), _of(both, "tokens_per_s"), _of(both, "peak_memory")]
    notes = []
    if not found.same_machine:
        notes.append(
            "> The two did not run on the same machine with the same threads (see below): their speeds compare the "
            "machines as well as the code."
        )
    if not found.losses_compare:
        notes.append(
            "> They were validated on other texts or tokens: their losses are not comparable."
        )
    elif found.settings:
        notes.append("> Settings differ (see below): differences of the loss may come from these.")
    return [" ".join(filter(None, told)), *notes]


def _losses(found: Versus, both: list[Pair]) -> str:
    same = [pair for pair in both if pair.bitwise]
    if len(same) == len(both):
        return f"Losses: the same to the bit in all {count(len(both), 'entry', 'entries')}."
    text = f"Losses: the same to the bit in {len(same)} of {count(len(both), 'entry', 'entries')}"
    if not found.losses_compare:
        return text + "."
    words = _words([pair for pair in both if not pair.bitwise], "val_loss")
    return (
        f"{text}; of the others {words}."
        if words
        else f"{text}; a single seed gives no verdict on the others."
    )


def _of(both: list[Pair], quantity: Quantity) -> str:
    words = _words(both, quantity)
    name = METRIC_NAMES[quantity].capitalize()
    if not words:
        return f"{name}: a single seed gives no verdict."
    extremes = [pair for pair in both if _verdict(pair, quantity)]
    if quantity == "tokens_per_s":
        ratios = [pair.tokens_per_s_ratio.ratio for pair in extremes if pair.tokens_per_s_ratio]
    else:
        ratios = [pair.peak_memory_ratio for pair in extremes if pair.peak_memory_ratio]
    return (
        f"{name}: {words} ({min(ratios):.3f} to {max(ratios):.3f} times)."
        if ratios
        else f"{name}: {words}."
    )


def _words(pairs: list[Pair], quantity: Quantity) -> str:
    """Count the verdicts, and name the entries of those that are better or worse."""
    labels: dict[str, list[str]] = {}
    for pair in pairs:
        verdict = _verdict(pair, quantity)
        if verdict and verdict.verdict:
            labels.setdefault(verdict.verdict, []).append(pair.label)
    counts = Counter({word: len(of) for word, of in labels.items()})
    return ", ".join(
        f"{counts[word]} {word}"
        + (f": {listing(labels[word])}" if word in ("better", "worse") else "")
        for word in WORDS
        if counts[word]
    )


def _verdict(pair: Pair, quantity: Quantity) -> SignificanceResult | None:
    found: SignificanceResult | None = getattr(pair, quantity)
    return found


def _entries(found: Versus) -> str:
    rows = [
        [
            pair.label,
            f"{len(pair.seeds)}",
            "same bits" if pair.bitwise else _word(pair.val_loss),
            _word(pair.tokens_per_s),
            _word(pair.peak_memory),
            difference(pair.val_loss.difference) if pair.val_loss else NONE,
            ratio(pair.tokens_per_s_ratio),
            ratio(pair.peak_memory_ratio),
        ]
        for pair in found.pairs
    ]
    if not rows:
        return ""
    margins = (
        ", ".join(
            f"{title} {found.margins[key]:g}"
            for key, title in METRIC_NAMES.items()
            if key in found.margins
        )
        or "none"
    )
    text = (
        f"`{found.b}` against `{found.a}`, paired by seed: differences are the former minus the latter, ratios the "
        "former over the latter, intervals 95 %. Verdicts are those of a study's report, corrected (Holm) over all "
        f"entries; losses under another parallelism are the same question once more. Margins: {margins}."
    )
    header = [
        "entry",
        "seeds",
        "loss",
        "throughput",
        "memory",
        "difference in val loss",
        "tokens/s ×",
        "peak memory ×",
    ]
    return join(text, cells.table(header, rows, left=5))


def _word(verdict: SignificanceResult | None) -> str:
    return NONE if verdict is None else verdict.verdict or "no interval"


def _facts(found: Versus, facts: dict[str, tuple[Any, Any]]) -> str:
    rows = [[key, *(_shown(value) for value in pair)] for key, pair in facts.items()]
    return cells.table(["", found.a, found.b], rows, left=3) if rows else ""


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{40,}", value):
        return value[:12]  # a commit, or the SHA-256 of a corpus
    return (
        NONE
        if value is None
        else {True: "yes", False: "no"}[value]
        if isinstance(value, bool)
        else str(value)
    )


def _statuses(found: Versus) -> str:
    rows = [
        [pair.label, *map(_status, pair.status)]
        for pair in found.pairs
        if pair.status[0] != pair.status[1]
    ]
    return cells.table(["entry", found.a, found.b], rows, left=3) if rows else ""


def _status(status: str | dict[str, int]) -> str:
    return (
        status
        if isinstance(status, str)
        else ", ".join(f"{n} {word}" for word, n in status.items())
    )


def _models(found: Versus) -> str:
    rows = [
        [
            pair.label,
            *(f"{n:,}" for n in pair.parameters),
            *(f"{n:,.0f}" for n in pair.flops_per_token),
        ]
        for pair in found.pairs
        if pair.parameters[0] != pair.parameters[1]
        or pair.flops_per_token[0] != pair.flops_per_token[1]
    ]
    header = [
        "entry",
        *(
            f"{what}, {of}"
            for what in ("parameters", "FLOPs per token")
            for of in (found.a, found.b)
        ),
    ]
    return cells.table(header, rows) if rows else ""


def _unmatched(found: Versus) -> str:
    return join(
        *(
            f"Only in `{name}`: {listing(labels, most=20)}."
            for name, labels in ((found.a, found.only_a), (found.b, found.only_b))
            if labels
        )
    )
