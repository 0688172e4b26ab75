"""The largest improvement of the loss, with its costs and savings."""

from collections.abc import Mapping

from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Code, Text, text
from harness.results.records.comparisons import SignificanceResult
from harness.results.records.estimates import Ratio


def largest(summary: Summary, results: Mapping[str, SignificanceResult]) -> Text:
    """Return the largest improvement of the loss with its costs; empty if no entry is better."""
    better = {
        label: result
        for label, result in results.items()
        if result.verdict == "better" and result.unit is None
    }
    if not better:
        return ()
    best = min(better, key=lambda label: better[label].difference.mean)
    difference = better[best].difference
    low, high = difference.ci95 or (None, None)
    bounds = (None, None) if low is None or high is None else (-high, -low)
    gain = formatting.gain(-difference.mean, *bounds)
    comparison = next(row for row in summary.comparisons if row.entry == best)
    costs = []
    if comparison.tokens_per_s_ratio is not None:
        costs.append(_throughput(comparison.tokens_per_s_ratio))
    if comparison.peak_memory_ratio is not None:
        costs.append(f"{comparison.peak_memory_ratio:.3f}x peak memory")
    return text(
        " Largest improvement: ",
        Code(best),
        f", {gain} nats per token",
        f", at {' and '.join(costs)}" if costs else "",
        _saving(summary, best),
        ".",
    )


def _saving(summary: Summary, entry: str) -> str:
    """Return the tokens that an entry needs for the baseline's final loss; empty if not known."""
    ratio = next((row.tokens_ratio for row in summary.savings if row.entry == entry), None)
    if ratio is None:
        return ""
    change = f"{ratio:.2f}x fewer" if ratio >= 1 else f"{1 / ratio:.2f}x more"
    return f". It reaches the baseline's final loss with {change} tokens"


def _throughput(ratio: Ratio) -> str:
    """Return 1.234x throughput, with the interval of its test if it has one."""
    low, high = ratio.ci95 or (None, None)
    factor, _, bounds = formatting.tested_ratio(ratio.ratio, low, high).partition(" ")
    return f"{factor}x throughput {bounds}".rstrip()
