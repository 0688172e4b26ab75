"""Whether the losses, throughputs and memories of two runs may be compared.

Losses per token are comparable if both are means over the same windows of the same tokens. Under
another tokenizer the tokens differ, but not the text, so that the loss per byte is comparable. All
other settings leave the loss of given weights the same, except for the rounding of a precision.
`harness.analysis.machines` has the rules for times and memory.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from harness.analysis.dataset import Entry, StudyResults
from harness.results.records import RunSpec, TokenSlice
from harness.results.records.caveats import Caveat
from harness.results.records.comparisons import LossUnit

SAME_TEXT = 0.02  # relative: amounts of text that differ by no more are equal


@dataclass(frozen=True)
class LossComparison:
    """The unit in which two losses are compared; None with the reason if they cannot be."""

    unit: LossUnit | None
    reason: str | None = None


def compare_losses(spec: RunSpec, base: RunSpec, equal_length: bool = False) -> LossComparison:
    """Return whether the losses of two runs may be compared. The reason names both settings.

    With `equal_length`, the losses were measured at the same length, whatever that of training.
    """
    reasons = [*_differences(spec, base, equal_length)]
    if reasons:
        return LossComparison(None, "; ".join(reasons))
    same_tokens = spec.data.tokenizer == base.data.tokenizer
    if same_tokens and spec.model.vocab_size == base.model.vocab_size:
        return LossComparison("nats per token")
    if spec.train.eval_tokens != "all" or spec.eval_windows != "all":
        return LossComparison(
            None,
            f"other tokenizer ({spec.data.tokenizer}, {base.data.tokenizer}), under which a part "
            "of the validation tokens is another text",
        )
    return LossComparison("bits per byte")


def of_entries(entry: Entry, base: Entry, equal_length: bool = False) -> LossComparison:
    """Return whether the losses of two entries may be compared.

    Those of imported runs count as comparable, because their table does not state otherwise.
    """
    if entry.runs[0].imported or base.runs[0].imported:
        return LossComparison("nats per token")
    return compare_losses(entry.runs[0].resolved, base.runs[0].resolved, equal_length)


def in_nats(entry: Entry, base: Entry, equal_length: bool = False) -> bool:
    """Return whether the losses of two entries may be compared in nats per token."""
    return of_entries(entry, base, equal_length).unit == "nats per token"


def unit_of_all(study: StudyResults) -> LossUnit | None:
    """Return the unit in which the losses of all entries are comparable, None without one."""
    first, *others = study.entries
    units = {of_entries(entry, first).unit for entry in others}
    if None in units:
        return None
    return "bits per byte" if "bits per byte" in units else "nats per token"


def _differences(spec: RunSpec, base: RunSpec, equal_length: bool) -> Iterator[str]:
    """Yield the settings that determine the text, or the context of its tokens, if they differ."""
    validated_on = _validation_tokens(spec)
    same_text = validated_on is not None and validated_on == _validation_tokens(base)
    if spec.data.sha256 != base.data.sha256 and not same_text:
        names = [spec.data.corpus, base.data.corpus]
        if names[0] == names[1]:
            names = [spec.data.sha256[:12], base.data.sha256[:12]]
        yield f"other corpus ({names[0]}, {names[1]})"
    if spec.model.seq_len != base.model.seq_len and not equal_length:
        yield f"other sequence length ({spec.model.seq_len}, {base.model.seq_len} tokens)"
    if spec.train.eval_tokens != base.train.eval_tokens:
        yield f"other eval_tokens ({spec.train.eval_tokens}, {base.train.eval_tokens})"
    if spec.eval_windows != base.eval_windows:
        yield f"other validation windows ({spec.eval_windows}, {base.eval_windows})"
    if spec.data.documents != base.data.documents:
        documents = f"({spec.data.documents}, {base.data.documents})"
        yield f"other documents {documents}, under which validation tokens have another context"


def _validation_tokens(spec: RunSpec) -> tuple[list[TokenSlice], list[float]] | None:
    """Return the content of the validation tokens and the weight of each corpus of a mixture.

    The files may be anywhere. None if the content is unknown.
    """
    slices = spec.launch.val_tokens
    if not slices or any(part.sha256 is None for part in slices):
        return None
    return [part.model_copy(update={"file": ""}) for part in slices], spec.launch.weights


def caveats(study: StudyResults) -> Iterator[Caveat]:
    """Yield a caveat for each entry of another training budget or precision than its baseline.

    Under another tokenizer, equal numbers of tokens are other amounts of text.
    """
    for entry in study.entries:
        base = study.baseline_of(entry)
        if base is None:
            continue
        unit = of_entries(entry, base).unit
        if unit is None:
            continue
        yield from _other_precision(entry, base)
        if unit == "bits per byte":
            n_bytes = _training_bytes(entry)
            n_base_bytes = _training_bytes(base)
            if n_bytes and n_base_bytes and abs(n_bytes / n_base_bytes - 1) > SAME_TEXT:
                message = (
                    f"trained on about {_rounded(n_bytes)} bytes of text, {base.label} on "
                    f"{_rounded(n_base_bytes)}: their difference includes that of the amounts of "
                    "text"
                )
                yield Caveat(kind="other-budget", entry=entry.label, message=message)
            continue
        n_tokens = training_tokens(entry)
        n_base = training_tokens(base)
        if n_tokens is not None and n_base is not None and n_tokens != n_base:
            message = (
                f"trained on {n_tokens:,} tokens, {base.label} on {n_base:,}: their difference "
                "includes that of the training budgets"
            )
            yield Caveat(kind="other-budget", entry=entry.label, message=message)


def _other_precision(entry: Entry, base: Entry) -> Iterator[Caveat]:
    if entry.runs[0].imported or base.runs[0].imported:
        return
    precision = entry.runs[0].resolved.train.precision
    base_precision = base.runs[0].resolved.train.precision
    if precision != base_precision:
        message = (
            f"validated in {precision}, {base.label} in {base_precision}: their difference "
            "includes the rounding of the validation"
        )
        yield Caveat(kind="other-precision", entry=entry.label, message=message)


def _training_bytes(entry: Entry) -> float | None:
    """Return about how many bytes of text an entry trains on, at the bytes per validation token."""
    ratios = [run.final_loss / (run.final_bits_per_byte * math.log(2)) for run in entry.done]
    known = [ratio for ratio in ratios if math.isfinite(ratio)]
    n_tokens = training_tokens(entry)
    return n_tokens * float(np.mean(known)) if known and n_tokens is not None else None


def _rounded(number: float) -> str:
    return f"{float(f'{number:.3g}'):,.0f}"


def training_tokens(entry: Entry) -> int | None:
    """Return the number of tokens that each run of an entry trains on; None if unknown."""
    if entry.done:
        return entry.done[0].n_tokens
    first = entry.runs[0]
    return None if first.imported else first.resolved.train.total_tokens
