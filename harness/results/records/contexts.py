"""The contexts of a study side by side: each parallelism, or each size, with the same entries."""

from pydantic import Field

from harness.results.records.base import StrictModel
from harness.results.records.entries import EquivalenceStatus
from harness.results.records.estimates import Mean, Median, Number, Ratio


class ContextResult(StrictModel):
    """One combination of labels on the context axes, relative to the reference context.

    The reference is the context in which the baseline is shown. Values are those of the baseline;
    ratios pair the runs of one seed. The lowest and the highest ratio are those over all entries
    that differ only in the context from one of the reference.
    """

    context: str = Field(description="labels on the context axes")
    levels: dict[str, str] = Field(description="label on each context axis")
    is_reference: bool = Field(description="whether ratios are relative to this context")
    entry: str | None = Field(description="the baseline in this context; null without one")
    n_entries: int = Field(description="number of entries in this context")
    equivalence: EquivalenceStatus | None = Field(
        description="worst verdict of its entries in `equivalence`; null without a check"
    )
    diverging: list[str] = Field(description="entries that do not reproduce the reference run")
    val_loss: Mean | None = Field(description="final validation loss, nats per token")
    tokens_per_s: Median | None = Field(description="throughput")
    tokens_per_s_ratio: Ratio | None = Field(
        description="throughput over that of the reference, with the t interval of its logarithm; "
        "not corrected for the number of contexts"
    )
    lowest_tokens_per_s_ratio: Number | None = Field(description="lowest ratio over entries")
    highest_tokens_per_s_ratio: Number | None = Field(description="highest ratio over entries")
    peak_memory_bytes: int | None = Field(description="peak memory of the fullest rank, bytes")
    peak_memory_ratio: Number | None = Field(description="peak memory over that of the reference")
    lowest_peak_memory_ratio: Number | None = Field(description="lowest ratio over entries")
    highest_peak_memory_ratio: Number | None = Field(description="highest ratio over entries")
    sent_bytes: Number | None = Field(description="bytes that the busiest rank sends in a step")
    waiting_fraction: Number | None = Field(
        description="fraction of a step that ranks wait for communication"
    )
