"""Comparison of each entry with the baseline: verdicts on the loss, throughput and memory."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from harness.analysis.candidates import without_copies
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Block, Code, Table, code_list, paragraph
from harness.report.formatting import MISSING, NO_SPEED
from harness.report.sections import Charts, chart_blocks, method, of_shown, reason_list, superiority
from harness.report.sections.overview import baseline_labels
from harness.report.sections.pooled import with_unit
from harness.report.tables import (
    Column,
    Record,
    display,
    interval_of,
    number_column,
    records,
    text_column,
)
from harness.results.records.comparisons import Quantity

NO_INTERVAL = "no interval"  # of a single seed
NOT_COMPARABLE = "not comparable"
COPIES = "Other parallelisms repeat these losses and are not listed. "
REPEATS = "as "  # before the entry that is tested for one of another parallelism
NO_EFFECT_OF_SEED = "seed has no effect"


def losses(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the paired comparisons of the loss with the baseline."""
    study = summary.study
    if not study.entries:
        return
    if not summary.comparisons:
        labels = ", ".join(f"{axis} {label}" for axis, label in study.baseline.items())
        yield paragraph(
            "No entry can be compared with a baseline entry "
            f"(labels of the baseline: {labels or 'none stated'})."
        )
        return
    if not study.contexts:  # else it is with the pooled differences
        yield from chart_blocks(charts, "differences")
    yield paragraph(
        "Against ",
        code_list(baseline_labels(summary)),
        ": variant minus baseline, paired by seed. An entry is better or worse if two tests agree "
        "(Dunnett's with the noise of all entries, and its own t test), and equivalent if two "
        "one-sided tests place it within the study's margin (margin: ",
        _margin(summary, "val_loss"),
        "). The error rate of all comparisons together is 5 %, and each "
        "interval agrees with its verdict; a round bracket marks an excluded end. Definitions, "
        "assumptions and measured error rates: ",
        Code(method.REFERENCE),
        ".",
    )
    copies = "" if len(without_copies(study)) == len(study.entries) else COPIES
    yield paragraph(
        "Seeds needed: at 80 % power, if the observed effect size is the true one. p (adjusted) "
        "decides; p (BH) controls the false discovery rate (Benjamini-Hochberg). The effect size "
        f"is Hedges' g. {copies}".rstrip(),
    )
    yield from method.paragraphs(summary, "val_loss")
    yield from _in_contexts(summary)
    yield _losses(summary)
    yield from reason_list(
        (f"Not comparable, {row.not_comparable}", row.entry)
        for row in summary.comparisons
        if row.not_comparable
    )
    yield from _lost_seeds(summary)


def costs(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the paired comparisons of throughput and memory with the baseline."""
    if not summary.comparisons:
        return
    known = summary.tables["comparisons"][["tokens_per_s_ratio", "peak_memory_ratio"]]
    if summary.study.imported and known.isna().all(axis=None):
        return
    yield from chart_blocks(charts, "differences_tokens_per_s")
    yield paragraph(
        "Ratios are variant over baseline, from the same seeds. Their verdicts use the "
        "logarithms, tested as above (margins: throughput "
        f"{_margin(summary, 'tokens_per_s')}, memory {_margin(summary, 'peak_memory')})."
    )
    yield from method.paragraphs(summary, "tokens_per_s", "peak_memory")
    yield _costs(summary)
    yield from reason_list(
        (f"Throughput not comparable, {row.speed_not_comparable}", row.entry)
        for row in summary.comparisons
        if row.speed_not_comparable
    )
    yield from reason_list(
        (f"Memory not comparable, {row.memory_not_comparable}", row.entry)
        for row in summary.comparisons
        if row.memory_not_comparable
    )


def _in_contexts(summary: Summary) -> Iterator[Block]:
    """Return how context axes and other tokenizers change the comparison."""
    contexts = summary.study.contexts
    if contexts:
        yield paragraph(
            f"{', '.join(contexts)}: context. Each entry is compared with the baseline that has "
            "the same labels on these axes, and corrections cover the comparisons of one context."
        )
    if any(row.loss_unit == "bits per byte" for row in summary.comparisons):
        yield paragraph(
            "Losses under another tokenizer than the baseline's are compared in bits per byte, as "
            "their tokens differ. The margin is converted by the baseline's ratio of bits per byte "
            "to nats per token. Throughput counts the tokens of each entry's own tokenizer."
        )


def _lost_seeds(summary: Summary) -> Iterator[Block]:
    """Return which seeds are lost, and what their entries cannot gain."""
    lost: dict[str, list[int]] = {}
    for tests in summary.metric_tests.values():
        for label, result in tests.entries.items():
            if result.lost_seeds:
                lost.setdefault(label, result.lost_seeds)
    if lost:
        yield paragraph(
            "The runs that are left of an entry with failed runs are a selection. The side that "
            "lost seeds gains no verdict, and an entry that would gain one is unresolved, without "
            "an interval."
        )
        yield from reason_list(
            (f"Lost {_seed_list(seeds)}, of the entry or its baseline", label)
            for label, seeds in lost.items()
        )


def _seed_list(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def verdict_words(summary: Summary, metric: Quantity) -> dict[str, str]:
    """Return the verdict on each compared entry in a word or two.

    Entries without a verdict are tested by another one of the same loss, diverge, have a single
    seed or differences that are one observation, or have no seed in common with the baseline.
    """
    frame = summary.tables["verdicts"]
    tested = {}
    for row in records(frame[frame["quantity"] == metric]):
        without = NOT_COMPARABLE if row["not_comparable"] else NO_INTERVAL
        if row["seed_has_no_effect"]:
            without = NO_EFFECT_OF_SEED
        tested[row["entry"]] = row["verdict"] or without
    words = {}
    for row in records(summary.tables["comparisons"]):
        untested = NO_SPEED if row["seeds"] and row["speed_diverges"] else MISSING
        if metric == "val_loss" and row["repeats"]:
            untested = REPEATS + row["repeats"]
        words[row["entry"]] = tested.get(row["entry"], untested)
        if metric == "tokens_per_s" and row["speed_not_comparable"]:
            words[row["entry"]] = NOT_COMPARABLE
        if metric == "peak_memory" and row["memory_not_comparable"]:
            words[row["entry"]] = NOT_COMPARABLE
        if metric == "tokens_per_s" and row["speed_diverges"]:
            words[row["entry"]] = NO_SPEED
    return words


def _verdict_column(title: str, summary: Summary, metric: Quantity) -> Column:
    words = verdict_words(summary, metric)
    return Column(title, lambda row: words[row["entry"]], numeric=False)


def _losses(summary: Summary) -> Table:
    verdicts = summary.tables["verdicts"]
    failed = {entry.label: entry.lost_seeds for entry in summary.study.entries}
    names = ["entry", "verdict", "p_adjusted", "p_bh", "effect_size"]
    names += ["seeds_to_resolve", "seeds_to_resolve_low", "seeds_to_resolve_high"]
    names += ["difference_low", "method", "look"]
    tests = verdicts.loc[verdicts["quantity"] == "val_loss", names]
    context = []
    if summary.study.contexts:
        title = summary.study.context_title
        context = [Column("context", lambda row: title(row["context"]), numeric=False)]
    looks = summary.study.looks
    look = [] if looks is None or looks.is_fixed else [number_column("look", "look")]
    columns = [
        text_column("entry"),
        *context,
        Column("differs in", lambda row: ", ".join(row["differs"]), numeric=False),
        Column("seeds", lambda row: _seeds(row, failed), numeric=False),
        _verdict_column("verdict", summary, "val_loss"),
        *look,
        *superiority.columns(summary, "val_loss"),
        Column("difference in val loss", loss_difference),
        number_column("p (adjusted)", "p_adjusted", formatting.p_value),
        number_column("p (BH)", "p_bh", formatting.p_value),
        number_column("effect size", "effect_size", "{:+.2f}".format),
        Column("seeds needed", _seeds_needed),
    ]
    frame = of_shown(summary, summary.tables["comparisons"]).merge(tests, on="entry", how="left")
    return display("Validation loss against the baseline", frame, columns)


def loss_difference(row: Record) -> str:
    """Return the difference in the loss; in bits per byte, with the unit, if tokenizers differ."""
    if row["loss_unit"] == "bits per byte":
        bits = interval_of(row, "bits_per_byte_difference")
        return with_unit(formatting.difference(*bits), row["loss_unit"])
    return formatting.difference(*interval_of(row, "val_loss_difference"))


def _seeds(row: Record, failed: Mapping[str, Collection[int]]) -> str:
    """Return the number of paired seeds, and of those that are lost or that one side lacks.

    `failed` are the seeds that each entry has lost, also those whose loss is not tested.
    """
    lost = {*failed.get(row["entry"], ()), *failed.get(row["against"], ())} - set(row["seeds"])
    n_unpaired = row["seeds_unpaired"] - len(lost)
    others = [f"{len(lost)} lost"] if lost else []
    if n_unpaired > 0:
        others.append(f"+{n_unpaired} unpaired")
    return f"{len(row['seeds'])} ({', '.join(others)})" if others else f"{len(row['seeds'])}"


def _seeds_needed(row: Record) -> str:
    if row["verdict"] != "unresolved" or row["difference_low"] is None or row["method"] == "Welch":
        return MISSING  # more seeds do not replace the lost ones, nor those that do not match
    low, high = (
        None if row[name] is None else int(row[name])
        for name in ("seeds_to_resolve_low", "seeds_to_resolve_high")
    )
    return formatting.seeds_needed(row["seeds_to_resolve"], low, high)


def _margin(summary: Summary, metric: Quantity) -> str:
    margin = summary.study.margins.get(metric)
    if margin is None and metric == "val_loss":
        return "none, so that only losses that are identical bit for bit count as equivalent"
    return "none" if margin is None else formatting.threshold(margin, metric)


def _costs(summary: Summary) -> Table:
    columns = [
        text_column("entry"),
        _verdict_column("throughput", summary, "tokens_per_s"),
        _verdict_column("memory", summary, "peak_memory"),
        *superiority.columns(summary, "tokens_per_s", "peak_memory"),
        Column("tokens/s ×", _speed_ratio),
        number_column("peak memory ×", "peak_memory_ratio", formatting.ratio),
    ]
    caption = "Throughput and memory against the baseline"
    return display(caption, of_shown(summary, summary.tables["comparisons"]), columns)


def _speed_ratio(row: Record) -> str:
    if row["speed_diverges"]:
        return NO_SPEED
    if row["speed_not_comparable"]:
        return NOT_COMPARABLE
    return formatting.tested_ratio(*interval_of(row, "tokens_per_s_ratio"))
