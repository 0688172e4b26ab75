"""summary.json of `compare A B`: what differs between two studies, entry by entry."""

from typing import Annotated, Literal

from pydantic import Field, Strict

from harness.results.records.base import StrictModel, Versioned
from harness.results.records.caveats import Caveat
from harness.results.records.comparisons import Quantity, SignificanceResult
from harness.results.records.entries import EntryStatus
from harness.results.records.estimates import Number, Ratio

# The values of A and B; a list in a file.
Values = Annotated[tuple[object, object], Strict(False)]
Counts = Annotated[tuple[int | None, int | None], Strict(False)]
Numbers = Annotated[tuple[Number | None, Number | None], Strict(False)]
Versions = Annotated[tuple[str | None, str | None], Strict(False)]
Statuses = Annotated[tuple[EntryStatus, EntryStatus], Strict(False)]


class EntryPair(StrictModel):
    """An entry of B and that of A with the same labels, over the seeds that both have done."""

    entry: str = Field(description="label of the entry in B")
    entry_of_a: str = Field(description="its label in A")
    seeds: list[int] = Field(description="seeds that both have done; empty: they are not paired")
    bitwise: bool | None = Field(
        description="whether every training and validation loss is identical; null without a "
        "common seed"
    )
    val_loss: SignificanceResult | None = Field(
        description="test of the loss, B minus A, in bits per byte under different tokenizers; "
        "null if it is not comparable, or tested for the entry `repeats`"
    )
    not_comparable: str | None = Field(description="why the losses are not comparable")
    speed_not_comparable: str | None = Field(description="why no seed's times can be compared")
    memory_not_comparable: str | None = Field(
        description="why no seed's peak memory can be compared"
    )
    tokens_per_s: SignificanceResult | None = Field(
        description="test of the logarithm of throughput; null if one of the two diverges from its "
        "single-process run, or has none"
    )
    peak_memory: SignificanceResult | None = Field(
        description="test of the logarithm of peak memory"
    )
    tokens_per_s_ratio: Ratio | None = Field(description="throughput of B over that of A")
    peak_memory_ratio: Number | None = Field(description="peak memory of B over that of A")
    training_tokens: Counts = Field(description="training tokens of A and B")
    parameters: Counts = Field(description="numbers of parameters of A and B")
    flops_per_token: Numbers = Field(description="FLOPs per token of A and B")
    status: Statuses = Field(description="status of the runs of A and B")
    repeats: str | None = Field(
        default=None,
        description="the entry whose loss is tested for this one, which differs from it in "
        "parallelism only",
    )

    def verdict(self, metric: Quantity) -> SignificanceResult | None:
        """Return the test of one metric."""
        result: SignificanceResult | None = getattr(self, metric)
        return result


class ChangedFile(StrictModel):
    """A file of code that differs between the newest runs of A and B."""

    name: str = Field(description="`harness/...`, `variants/...`, or `user/...` for a user's")
    change: Literal["changed", "reformatted", "added", "removed"] = Field(
        description="`reformatted`: only docstrings, comments or formatting differ"
    )
    lines_added: int = Field(description="lines of B that A does not have")
    lines_removed: int = Field(description="lines of A that B does not have")


class StudyComparison(Versioned):
    """B against A: the entries of both, the entries of only one, and what else differs."""

    a: str = Field(description="name of A")
    b: str = Field(description="name of B")
    created_at: str = Field(description="time of the comparison, ISO 8601, UTC")
    pairs: list[EntryPair] = Field(description="the entries of both, in the order of B")
    only_in_a: list[str] = Field(description="entries that B does not have")
    only_in_b: list[str] = Field(description="entries that A does not have")
    settings_diff: dict[str, Values] = Field(
        description="settings that differ, with the values of A and B"
    )
    environment_diff: dict[str, Values] = Field(
        description="fields of env.json that differ, with the values of A and B"
    )
    packages_diff: dict[str, Versions] = Field(
        description="installed packages that differ, with their versions in A and B"
    )
    packages_unknown: list[str] = Field(description="sides whose packages are not archived")
    code_diff: list[ChangedFile] = Field(description="files of code that differ")
    code_unknown: list[str] = Field(description="sides whose code is not archived")
    code_mixed: list[str] = Field(
        description="sides with runs of several versions of a file, of which the newest is compared"
    )
    losses_comparable: bool = Field(description="whether the losses of all pairs are comparable")
    margins: dict[str, Number] = Field(description="equivalence margins of B, by metric")
    superiority: dict[str, Number] = Field(description="thresholds of improvement of B, by metric")
    caveats: list[Caveat] = Field(
        description="caveats of both sides, under B's labels; that the code has changed since is "
        "none, as the code of both sides is compared"
    )
    imported: list[str] = Field(description="sides that are of another trainer")

    @property
    def shared(self) -> list[EntryPair]:
        """The pairs with a seed that both have done, or with an unpaired comparison."""
        return [pair for pair in self.pairs if pair.seeds or pair.val_loss]
