"""The top of the report: the question, the answer in a few sentences, and the state of the runs."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping

from harness.analysis.dataset import StudyResults
from harness.analysis.metrics import DIVERGES, PARALLELISM
from harness.analysis.significance import MAX_SEEDS
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import (
    Block,
    BulletList,
    Code,
    Note,
    Paragraph,
    Text,
    code_list,
    join,
    paragraph,
    text,
)
from harness.report.formatting import count
from harness.results.records import ResolvedData
from harness.results.records.study_summary import (
    BaselineComparison,
    EntryResult,
    SignificanceResult,
    VerdictName,
)

VERDICTS: tuple[VerdictName, ...] = ("better", "worse", "equivalent", "unresolved")


def question(summary: Summary) -> Text:
    """Return the question that the study asks."""
    baselines = baseline_labels(summary)
    axes = summary.study.varying()
    if not axes or not baselines:
        return text("What does each entry achieve, and at what cost?")
    n_compared = len(summary.comparisons)
    subject = f"Which of {n_compared:,} entries that differ in {', '.join(axes)} reach"
    if n_compared == 1:
        subject = f"Does the entry that differs in {', '.join(axes)} reach"
    return text(
        f"{subject} a lower loss than ",
        code_list(baselines),
        ", by how much, and at what cost?",
    )


def baseline_labels(summary: Summary) -> list[str]:
    """Return the labels of the entries with which others are compared."""
    return list(dict.fromkeys(comparison.against for comparison in summary.comparisons))


def headline(summary: Summary) -> Text:
    """Answer the question from the verdicts on the validation loss; empty without a comparison.

    Entries of another parallelism repeat the losses of others and are not counted.
    """
    if not summary.comparisons:
        return ()
    tests = summary.metric_tests["val_loss"]
    distinct = {row.entry for row in summary.comparisons if PARALLELISM not in row.differs}
    results = {
        label: result
        for label, result in tests.entries.items()
        if label in distinct or not distinct
    }
    if all(result.verdict is None for result in results.values()):
        return text(
            "No verdict: every difference comes from a single seed, which does not show how much "
            "of it is noise. Give the study more ",
            Code("seeds"),
            ".",
        )
    return text(
        "Validation loss against ",
        code_list(baseline_labels(summary)),
        ": ",
        join(_entries_by_verdict(results), "; "),
        ".",
        _largest_improvement(summary, results),
        _seeds_needed(results),
        "" if tests.margin is not None else _no_margin(),
    )


def _entries_by_verdict(results: Mapping[str, SignificanceResult]) -> Iterator[Text]:
    for verdict in VERDICTS:
        labels = [label for label, result in results.items() if result.verdict == verdict]
        if labels:
            yield text(f"{verdict}: ", code_list(labels))


def _largest_improvement(summary: Summary, results: Mapping[str, SignificanceResult]) -> Text:
    gains = {
        label: -result.difference.mean
        for label, result in results.items()
        if result.verdict == "better"
    }
    if not gains:
        return ()
    best = max(gains, key=lambda label: gains[label])
    interval = results[best].difference.ci95
    bounds = f" [{-interval[1]:.4f}, {-interval[0]:.4f}]" if interval else ""
    comparison = next(row for row in summary.comparisons if row.entry == best)
    saving = next((row.tokens_ratio for row in summary.savings if row.entry == best), None)
    return text(
        " Largest improvement: ",
        Code(best),
        f", {gains[best]:.4f} nats per token{bounds}",
        _costs(comparison),
        f". It reaches the baseline's final loss with {saving:.2f}x fewer tokens" if saving else "",
        ".",
    )


def _costs(comparison: BaselineComparison) -> str:
    costs = []
    if comparison.tokens_per_s_ratio is not None:
        speed = comparison.tokens_per_s_ratio
        low, high = speed.ci95
        costs.append(f"{speed.ratio:.3f}x throughput [{low:.3f}, {high:.3f}]")
    if comparison.peak_memory_ratio is not None:
        costs.append(f"{comparison.peak_memory_ratio:.3f}x peak memory")
    return f", at {' and '.join(costs)}" if costs else ""


def _seeds_needed(results: Mapping[str, SignificanceResult]) -> str:
    needed = [
        result.seeds_to_resolve for result in results.values() if result.verdict == "unresolved"
    ]
    if not needed:
        return ""
    if None in needed:
        return (
            f" Resolving the remaining comparisons may need more than {MAX_SEEDS:,} seeds: the "
            "differences are small compared with the noise."
        )
    most = max(n for n in needed if n is not None)
    return (
        " If the observed effect sizes are accurate, resolving the remaining comparisons needs up "
        f"to {most:,} seeds."
    )


def _no_margin() -> Text:
    return text(
        " The study states no ",
        Code("equivalence_margin"),
        ", so only losses that are identical bit for bit count as equivalent.",
    )


def status_paragraph(summary: Summary) -> tuple[Block, ...]:
    """Return the number of runs by status, the leading entries, the corpus, and warnings."""
    blocks: list[Block] = [Paragraph(_state(summary))]
    if summary.study.spec is not None:
        blocks.append(Paragraph(_corpus(summary.study.spec.data)))
    if summary.diverging:
        blocks.append(Note((Paragraph(_diverging(sorted(summary.diverging))),)))
    return (*blocks, *_warnings(summary.study))


def _state(summary: Summary) -> Text:
    study = summary.study
    statuses = Counter(run.status for run in study.runs)
    by_status = ", ".join(f"{n} {status}" for status, n in sorted(statuses.items())) or "none"
    entries = count(len(study.entries), "entry", "entries")
    return text(f"{entries} in {count(len(study.runs), 'run')}: {by_status}. ", _leaders(summary))


def _leaders(summary: Summary) -> Text:
    """Return the entries of lowest loss and highest throughput, of those with the most results."""
    results = summary.with_results
    sound = [result for result in results if result.equivalence != DIVERGES] or results
    complete = [result for result in sound if result.seeds_done == result.seeds] or sound
    if not complete:
        return text("No run is done yet, so there are no results.")
    best = min(complete, key=_rounded_loss)
    timed = [result for result in complete if result.tokens_per_s]
    return text(
        "Lowest final validation loss: ",
        Code(best.entry),
        f", {_mean_loss(best)} nats per token.",
        _fastest(timed) if timed else "",
        " The paired differences below show whether such a lead exceeds the noise."
        if len(complete) > 1
        else "",
    )


def _rounded_loss(result: EntryResult) -> float:
    return round(result.val_loss.mean, 4) if result.val_loss else math.inf


def _mean_loss(result: EntryResult) -> str:
    if result.val_loss is None:
        return formatting.MISSING
    return formatting.mean(result.val_loss.mean, *(result.val_loss.ci95 or ()))


def _fastest(timed: list[EntryResult]) -> Text:
    speeds = {result.entry: result.tokens_per_s for result in timed if result.tokens_per_s}
    label, speed = max(speeds.items(), key=lambda item: item[1].median)
    shown = formatting.median(speed.median, *speed.ci95)
    return text(" Highest throughput: ", Code(label), f", {shown} tokens per second.")


def _corpus(data: ResolvedData) -> Text:
    entropy = data.entropy_nats_per_byte
    lowest = ""
    if entropy is not None:
        lowest = (
            " The corpus is synthetic, so the lowest reachable validation loss is known: "
            f"{entropy:.4f} nats per byte, {entropy / math.log(2):.4f} bits per byte."
        )
    return text(
        "Corpus: ",
        Code(data.corpus),
        " (SHA-256 ",
        Code(f"{data.sha256[:12]}…"),
        "), tokenizer ",
        Code(data.tokenizer),
        ".",
        lowest,
    )


def _diverging(labels: list[str]) -> Text:
    verb = "does" if len(labels) == 1 else "do"
    return text(
        code_list(labels),
        f" {verb} not reproduce the single-process run (see the equivalence of parallelisms), so "
        "no speed is reported.",
    )


def _warnings(study: StudyResults) -> Iterator[Note]:
    if study.left_out:
        yield _note(
            f"{count(study.left_out, 'run')} of other settings (model, data, training or "
            "initialization) left out; this report covers the settings of the newest launch."
        )
    if study.superseded:
        yield _note(
            f"{count(study.superseded, 'run')} left out because a newer run of the same entry and "
            "seed replaces it."
            if study.superseded == 1
            else f"{count(study.superseded, 'run')} left out because newer runs of the same "
            "entries and seeds replace them."
        )
    machines = {(run.env.host, run.env.cpu, run.env.gpu) for run in study.runs if run.env}
    if len(machines) > 1:
        yield _note(
            f"The runs used {len(machines)} machines; times are comparable only within one of them."
        )
    if study.unreadable:
        unreadable = [text(Code(item.name), f": {item.why}") for item in study.unreadable]
        n_folders = count(len(study.unreadable), "folder")
        yield Note(
            (
                paragraph(f"{n_folders} could not be read and are left out:"),
                BulletList(tuple(unreadable)),
            )
        )


def _note(sentence: str) -> Note:
    return Note((paragraph(sentence),))
