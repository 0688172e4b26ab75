"""The first screen of a comparison: what changed, and what follows."""

from collections.abc import Iterator, Mapping, Sequence

from harness.analysis.pairs import METRIC_NAMES
from harness.report import formatting
from harness.report.charts.spec import ChartSpec
from harness.report.charts.style import VERDICTS
from harness.report.document import (
    Advice,
    Code,
    FirstScreen,
    Text,
    code_list,
    join,
    text,
)
from harness.report.formatting import count
from harness.results.records.comparisons import Quantity
from harness.results.records.study_comparison import EntryPair, StudyComparison

MAX_ITEMS = 4  # of one part of the advice
MAX_NAMES = 2  # entries that a sentence names
MAX_SETTINGS = 3  # that the sentence on what differs names
INTERPRETED = ("python", "torch", "numpy", "cuda")  # software that is known of each run
CHANGES: Mapping[Quantity, tuple[str, str]] = {
    "val_loss": ("lower", "higher"),
    "tokens_per_s": ("faster", "slower"),
    "peak_memory": ("less", "more"),
}  # the words for better and worse


def build(comparison: StudyComparison, chart: ChartSpec | None) -> FirstScreen:
    """Return the question, a sentence per metric and on what differs, and the advice."""
    return FirstScreen(
        question=text(
            "What changed from ",
            Code(comparison.a),
            " to ",
            Code(comparison.b),
            ", and what did not?",
        ),
        sentences=_sentences(comparison),
        chart=chart,
        advice=[part for part in _advice(comparison) if part.items],
    )


def _sentences(comparison: StudyComparison) -> list[Text]:
    pairs = comparison.shared
    if not pairs:
        return [text("No entry has a seed that is done in both, so there is no comparison yet.")]
    return [
        _losses(comparison, pairs),
        _metric(pairs, "tokens_per_s"),
        _metric(pairs, "peak_memory"),
        _what_differs(comparison),
    ]


def _losses(comparison: StudyComparison, pairs: Sequence[EntryPair]) -> Text:
    n_entries = count(len(pairs), "entry", "entries")
    if not all(pair.bitwise for pair in pairs):  # those of other parallelisms repeat a comparison
        pairs = [pair for pair in pairs if not pair.repeats]
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
        shared = any(pair.seeds for pair in pairs)
        reason = "one of the two has none" if shared else "their seeds do not match"
        return text(f"{name}: not compared, as {reason}.")
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
            named: Text = ()
            if word in ("better", "worse"):
                named = text(" (", code_list(labels[word], MAX_NAMES), ")")
            counts.append(text(f"{len(labels[word])} {word}", named))
    return join(counts, ", ")


def _what_differs(comparison: StudyComparison) -> Text:
    """Name what may explain the differences: settings, code, packages, machines."""
    parts: list[Text] = []
    keys = list(comparison.settings_diff)
    if keys:
        settings = count(len(keys), "setting")
        parts.append(text(f"{settings} (", code_list(keys, MAX_SETTINGS), ")"))
    computing = [file for file in comparison.code_diff if file.change != "reformatted"]
    if computing:
        names = [file.name for file in computing]
        files = count(len(names), "file", "files")
        parts.append(text(f"the code of {files} (", code_list(names, MAX_SETTINGS), ")"))
    software = [key for key in INTERPRETED if key in comparison.environment_diff]
    names = list(dict.fromkeys([*comparison.packages_diff, *software]))
    if names:
        parts.append(text(count(len(names), "package"), " (", code_list(names, MAX_SETTINGS), ")"))
    hardware = [key for key in ("host", "cpu", "gpu") if key in comparison.environment_diff]
    if hardware:
        parts.append(text("the machine"))
    if parts:
        return text("What differs: ", join(parts, "; "), ".")
    unknown = ["the code"] if comparison.code_unknown else []
    if comparison.packages_unknown:
        unknown.append("the packages")
    if unknown:
        return text(f"No setting or machine differs; not recorded: {', '.join(unknown)}.")
    return text("No setting, package or machine differs.")


# -- advice ---------------------------------------------------------------------------------------


def _advice(comparison: StudyComparison) -> Iterator[Advice]:
    pairs = comparison.shared
    bitwise = [pair.entry for pair in pairs if pair.bitwise]
    losses = list(_changed(pairs, "val_loss"))
    if bitwise:
        losses.insert(0, text("Bitwise equal: ", code_list(bitwise, MAX_NAMES)))
    yield Advice("better", f"Losses of {comparison.b}", losses)
    costs = [*_changed(pairs, "tokens_per_s"), *_changed(pairs, "peak_memory")]
    yield Advice("cheaper", f"Costs of {comparison.b}", costs)
    yield Advice("unresolved", "Unresolved", list(_unresolved(pairs)))
    yield Advice("distrust", "Check first", list(_distrust(comparison)))


def _changed(pairs: Sequence[EntryPair], metric: Quantity) -> Iterator[Text]:
    """Yield the resolved changes of a metric, the largest first, those beyond a number counted."""
    changed = []
    for pair in pairs:
        test = pair.verdict(metric)
        is_equal = metric == "val_loss" and pair.bitwise
        if test is not None and test.verdict in ("better", "worse") and not is_equal:
            changed.append((pair, test))
    changed.sort(key=lambda item: -abs(item[1].difference.mean))
    for pair, test in changed[:MAX_ITEMS]:
        better, worse = CHANGES[metric]
        word = better if test.verdict == "better" else worse
        if metric == "val_loss":
            unit = test.unit or "nats"
            size = formatting.brief_gain(test.difference.mean, test.difference.ci95, unit)
            yield text(Code(pair.entry), f": loss {size} {word}")
        else:
            size = formatting.percent_change(test.difference.mean).lstrip("+-")
            noun = " memory" if metric == "peak_memory" else ""
            yield text(Code(pair.entry), f": {size} {word}{noun}")
    if len(changed) > MAX_ITEMS:
        more = count(len(changed) - MAX_ITEMS, "more entry", "more entries")
        yield text(f"{more} with another {METRIC_NAMES[metric]}")


def _unresolved(pairs: Sequence[EntryPair]) -> Iterator[Text]:
    for metric, name in METRIC_NAMES.items():
        labels = []
        for pair in pairs:
            test = pair.verdict(metric)
            is_equal = metric == "val_loss" and pair.bitwise
            if test is not None and test.verdict in (None, "unresolved") and not is_equal:
                labels.append(pair.entry)
        if labels:
            yield text(f"{name.capitalize()} of ", code_list(labels, MAX_NAMES))


def _distrust(comparison: StudyComparison) -> Iterator[Text]:
    pairs = comparison.shared
    fields = {
        "not_comparable": "Losses",
        "speed_not_comparable": "Throughput",
        "memory_not_comparable": "Memory",
    }
    for field, noun in fields.items():
        reasons = dict.fromkeys(getattr(pair, field) for pair in pairs if getattr(pair, field))
        for reason in list(reasons)[:MAX_ITEMS]:
            yield text(f"{noun}: {reason}")
    kinds = dict.fromkeys(caveat.kind for caveat in comparison.caveats)
    if kinds:
        yield text(f"Results with caveats: {', '.join(kinds)}")
    if comparison.imported:
        yield text("Results of another trainer are taken as they are")
    if comparison.code_unknown:
        yield text("Code not archived: ", code_list(comparison.code_unknown))
    for side in comparison.code_mixed:
        yield text("Runs of several versions of the code: ", Code(side))
