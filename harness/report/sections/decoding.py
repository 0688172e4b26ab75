"""Prefill and decoding throughput, and the size of the KV cache."""

from harness.analysis.metrics import PARALLELISM
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Section, paragraph
from harness.report.formatting import MIB, MISSING, SECONDS_TO_MS
from harness.report.sections import Charts, chart_blocks
from harness.report.tables import (
    Column,
    Record,
    count_column,
    display,
    interval_column,
    number_column,
    text_column,
)

METHOD = (
    "Prefill processes the prompts of the whole batch in one pass; the context is their length in "
    "tokens. Decoding then adds one token to every sequence, with that many positions in the cache "
    "(including the new one). The cache size is the memory allocated for the keys and values of "
    "all layers and sequences. Times are medians with bootstrap intervals over seeds and their "
    "samples; × is the ratio to the baseline on the same seeds."
)
ONE_DEVICE = (
    " Decoding is measured on one device with all threads of the machine, whatever the "
    "parallelism: entries that differ only in the parallelism measure the same."
)


def build(summary: Summary, charts: Charts) -> Section | None:
    """Return the decoding measurements, if the study asks for them."""
    if "decoding" not in summary.tables:
        return None
    several = len(summary.study.levels.get(PARALLELISM, ())) > 1
    columns = [
        text_column("entry", "entry"),
        Column("seeds", _seeds, numeric=False),
        count_column("batch", "batch"),
        count_column("context", "context"),
        interval_column("prefill, tokens/s", "prefill_tokens_per_s", formatting.median),
        interval_column("decode, ms per token", "decode_step_s", _median_ms),
        interval_column("decode, tokens/s", "decode_tokens_per_s", formatting.median),
        interval_column("tokens/s ×", "decode_tokens_per_s_ratio", formatting.ratio),
        number_column("cache, MiB", "cache_bytes", _mib),
    ]
    return Section(
        "decoding",
        "Decoding",
        (
            paragraph(METHOD, ONE_DEVICE if several else ""),
            display("Decoding", summary.tables["decoding"], columns),
            *chart_blocks(charts, "decode_time", "decode_cache"),
        ),
    )


def _seeds(row: Record) -> str:
    n_seeds = len(row["seeds"])
    undefined = f"not defined: {row['reason']}" if row["reason"] else ""
    return "; ".join(part for part in (str(n_seeds or ""), undefined) if part)


def _median_ms(value: float | None, low: float | None, high: float | None) -> str:
    return formatting.median(value, low, high, scale=SECONDS_TO_MS)


def _mib(size_bytes: float | None) -> str:
    return MISSING if size_bytes is None else formatting.significant_figures(size_bytes / MIB)
