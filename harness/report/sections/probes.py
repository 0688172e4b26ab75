"""Measurements of trained models: decoding, and the loss at other sequence lengths."""

from collections.abc import Iterator, Sequence

from harness.analysis.metrics import PARALLELISM
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Block, Table, paragraph
from harness.report.formatting import MIB, MISSING
from harness.report.sections import Charts, chart_blocks, reason_list
from harness.report.sections.comparison import REPEATS
from harness.report.tables import (
    Column,
    Record,
    display,
    interval_column,
    interval_of,
    number_column,
    records,
    table,
    text_column,
)

DECODING_METHOD = (
    "Prefill processes the prompts of the whole batch in one pass; the context is their length in "
    "tokens. Decoding then adds one token to every sequence, with that many positions in the cache "
    "(including the new one). The cache size is the memory allocated for the keys and values of "
    "all layers and sequences. A time is the geometric mean over seeds of the "
    "median of each seed's samples, with the 95 % t interval of its logarithm over seeds; a single "
    "seed has no interval. × is the ratio to the baseline on the same seeds."
)
ONE_DEVICE = (
    " Decoding is measured on one device with all threads of the machine, whatever the "
    "parallelism: entries that differ only in the parallelism measure the same."
)


def decoding(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return prefill and decoding throughput and the cache size, if the study asks for them."""
    if "decoding" not in summary.tables:
        return
    several = len(summary.study.levels.get(PARALLELISM, ())) > 1
    columns = [
        text_column("entry"),
        Column("seeds", _seeds, numeric=False),
        number_column("batch", "batch"),
        number_column("context", "context"),
        interval_column(
            "prefill, tokens/s", "prefill_tokens_per_s", formatting.significant_figures
        ),
        interval_column("decode, ms per token", "decode_step_s", formatting.milliseconds),
        interval_column("decode, tokens/s", "decode_tokens_per_s", formatting.significant_figures),
        interval_column("tokens/s ×", "decode_tokens_per_s_ratio", formatting.ratio),
        number_column("cache, MiB", "cache_bytes", _cache_mib),
    ]
    yield paragraph(DECODING_METHOD, ONE_DEVICE if several else "")
    yield display("Decoding", summary.tables["decoding"], columns)
    yield from chart_blocks(charts, "decode_time", "decode_cache")


def _seeds(row: Record) -> str:
    n_seeds = str(len(row["seeds"]) or "")
    undefined = f"not defined: {row['reason']}" if row["reason"] else ""
    return "; ".join(filter(None, [n_seeds, undefined]))


def _cache_mib(size_bytes: float) -> str:
    return formatting.significant_figures(size_bytes / MIB)


def eval_lengths(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the losses by length, if the study evaluates other lengths."""
    spec = summary.study.spec
    if spec is None or "lengths" not in summary.tables:
        return
    lengths = {entry.runs[0].resolved.model.seq_len for entry in summary.study.entries}
    trained = spec.model.seq_len if len(lengths) == 1 else None
    used = (
        f"training used sequences of {trained:,} tokens" if trained else "training lengths differ"
    )
    rows = records(summary.tables["lengths"])
    yield paragraph(
        f"Loss of the trained model, nats per token, on sequences of each length; {used}. Every "
        "length covers about the same number of "
        "validation tokens, in windows that do not overlap. Each window starts without "
        "context, so tokens of longer windows have more context on average."
    )
    losses = [_loss(row) for row in rows]
    yield _by_length("Validation loss by sequence length", rows, losses, trained)
    yield from reason_list(
        (f"Not defined, {row['reason']}", row["entry"]) for row in rows if row["reason"]
    )
    compared = [row for row in rows if row["val_loss_difference"] is not None]
    if compared:
        yield paragraph(
            "Difference from the baseline at the same length, paired by seed, where both are "
            "defined, with the 95 % t interval of each, not corrected for their number:"
        )
        differences = [
            formatting.difference(*interval_of(row, "val_loss_difference")) for row in compared
        ]
        caption = "Difference from the baseline by sequence length"
        yield _by_length(caption, compared, differences, trained)
    yield from chart_blocks(charts, "length_loss", "position_loss")


THESE_MODELS = "these models"  # the subject of a verdict of one seed

# The metric of a task in the report, the first that it has; tasks.csv has all.
PREFERRED = ("acc_norm", "acc", "exact_match", "f1", "word_perplexity")


def tasks(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the main metric of each task of lm-eval, if the study evaluates any."""
    if "tasks" not in summary.tables:
        return
    rows = records(summary.tables["tasks"])
    main = _main_metrics(rows)
    rows = [row for row in rows if row["metric"] in ("", main[row["task"]])]  # "": it failed
    yield paragraph(
        "Tasks of lm-eval, mean over seeds with the 95 % t interval; tasks.csv has all metrics."
    )
    measured = [row for row in rows if row["value"] is not None]
    cells = [formatting.mean(*interval_of(row, "value")) for row in measured]
    yield _by_task("Metrics of tasks", measured, cells)
    yield from reason_list(
        (f"{row['task']} not defined, {row['reason']}", row["entry"])
        for row in rows
        if row["reason"]
    )
    compared = [row for row in rows if row["difference"] is not None]
    if compared:
        yield paragraph(_method_of_tasks(compared))
        cells = [_task_difference(row) for row in compared]
        yield _by_task("Difference from the baseline by task", compared, cells)
    reasons = []
    for row in rows:
        for title, reason in (
            ("not paired by example", row["not_by_example"]),
            ("not tested", row["not_tested"]),
        ):
            if reason:
                reasons.append((f"{row['task']}, {row['metric']} {title}: {reason}", row["entry"]))
    yield from reason_list(reasons)


def _method_of_tasks(rows: Sequence[Record]) -> str:
    """Return how the differences are paired and what their intervals are about."""
    over = {row["over"] for row in rows}
    sentences = ["Difference from the baseline with its verdict."]
    if "seeds and examples" in over:
        sentences.append(
            "Both models of a seed answer the same examples: differences are paired by example "
            "and by seed, and the interval has the variance of both, so that it holds for other "
            "seeds and other examples."
        )
    if "examples" in over:
        sentences.append(
            f"Those of one seed ({THESE_MODELS}) are paired by example only: their verdicts are "
            "about these two trained models, not about the variant, which another seed may change."
        )
    if "seeds" in over:
        sentences.append("Metrics without values by example are paired by seed only.")
    sentences.append(
        "The entries of a context are tested together in each task (Holm 1979, familywise error "
        "5 %); several tasks are several families. The interval agrees with the verdict; a round "
        "bracket marks an excluded end."
    )
    return " ".join(sentences)


def _task_difference(row: Record) -> str:
    """Return a difference with its interval and verdict: +0.0312 [0.0101, 0.0523] better."""
    shown = formatting.difference(*interval_of(row, "difference"))
    words = [shown, row["verdict"] or (REPEATS + row["repeats"] if row["repeats"] else "")]
    if row["over"] == "examples":
        words.append(f"({THESE_MODELS})")
    return " ".join(filter(None, words))


def _main_metrics(rows: Sequence[Record]) -> dict[str, str]:
    """Return the metric of each task that the report shows."""
    by_task: dict[str, list[str]] = {}
    for row in rows:
        by_task.setdefault(row["task"], []).append(row["metric"])
    main = {}
    for task, metrics in by_task.items():
        defined = [metric for metric in metrics if metric] or metrics
        main[task] = next((metric for metric in PREFERRED if metric in defined), defined[0])
    return main


def _by_task(caption: str, rows: Sequence[Record], cells: Sequence[str]) -> Table:
    """Return a table with one row per entry and one column per task; a cell for each row."""
    by_entry: dict[str, dict[str, str]] = {}
    titles: dict[str, None] = {}
    for row, cell in zip(rows, cells, strict=True):
        title = f"{row['task']}, {row['metric']}"
        titles[title] = None
        by_entry.setdefault(row["entry"], {})[title] = cell
    table_rows = []
    for entry, by_title in by_entry.items():
        table_rows.append([entry, *(by_title.get(title, MISSING) for title in titles)])
    return table(caption, ["entry", *titles], table_rows, list(titles))


def _by_length(
    caption: str, rows: Sequence[Record], cells: Sequence[str], trained: int | None
) -> Table:
    """Return a table with one row per entry and one column per length; a cell for each row."""
    lengths = sorted({row["length"] for row in rows})
    by_entry: dict[str, dict[int, str]] = {}
    for row, cell in zip(rows, cells, strict=True):
        by_entry.setdefault(row["entry"], {})[row["length"]] = cell
    titles = [f"{n:,} (trained)" if n == trained else f"{n:,}" for n in lengths]
    table_rows = []
    for entry, by_length in by_entry.items():
        table_rows.append([entry, *(by_length.get(n, MISSING) for n in lengths)])
    return table(caption, ["entry", *titles], table_rows, titles)


def _loss(row: Record) -> str:
    if row["val_loss"] is None:
        return "not defined"
    loss = formatting.mean(*interval_of(row, "val_loss"))
    return f"{loss} (of {formatting.count(len(row['seeds']), 'seed')})" if row["reason"] else loss
