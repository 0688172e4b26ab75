"""Checks of a run's validation losses: values that an honest language model does not have.

Training prints them as warnings, the launcher adds them to a run's last line, and the report shows
them as caveats.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from harness.results.records import RunSpec
from harness.results.records.caveats import CaveatKind

INITIAL_LOSS_TOLERANCE = 0.1  # relative
# Six standard deviations of the mean surprisal of n bytes of the synthetic corpus, 1.1 / sqrt(n).
ENTROPY_TOLERANCE = 7.0  # nats per byte, times the root of the number of bytes


class Finding(NamedTuple):
    """An implausible loss: the kind of its caveat, and the observation, without the run."""

    kind: CaveatKind
    message: str


def implausible(
    spec: RunSpec,
    steps: Sequence[int],
    val_losses: Sequence[float | None],
    bits_per_byte: Sequence[float | None],
) -> list[Finding]:
    """Return the implausible losses of a run; the sequences have an item for each evaluation.

    A new model guesses, so its loss is ln(vocabulary) within 10 %; in a wide model, random logits
    of variance n_embd * init_std^2 add half of that. No causal model has a loss below
    the entropy of its corpus, except by chance: a lower one means that the model sees the tokens
    that it predicts, or that the validation text was in its training text.
    """
    findings = []
    first = val_losses[0] if len(steps) and steps[0] == 0 else None
    expected = math.log(spec.model.vocab_size)
    if spec.init is None and first is not None and math.isfinite(first):
        from_random_logits = spec.model.n_embd * spec.model.init_std**2 / 2
        if abs(first - expected) > INITIAL_LOSS_TOLERANCE * expected + from_random_logits:
            message = (
                f"the loss before the first step is {first:.3f}, not ln({spec.model.vocab_size}) = "
                f"{expected:.3f} within {INITIAL_LOSS_TOLERANCE:.0%}"
            )
            findings.append(Finding("initial-loss", message))
    known = [value for value in bits_per_byte if value is not None and math.isfinite(value)]
    entropy = spec.data.entropy_nats_per_byte
    if entropy is not None and known:
        lowest = min(known) * math.log(2)
        tolerance = ENTROPY_TOLERANCE / math.sqrt(_n_evaluated(spec))
        if lowest < entropy - tolerance:
            message = (
                f"a validation loss of {lowest:.4f} nats per byte is below the corpus's entropy of "
                f"{entropy:.4f}, by more than chance explains ({tolerance:.4f}): the model sees "
                "the tokens that it predicts"
            )
            findings.append(Finding("below-entropy", message))
    return findings


def _n_evaluated(spec: RunSpec) -> int:
    """Return the number of tokens that an evaluation covers, at most that of its bytes."""
    available = sum(part.stop - part.start for part in spec.launch.val_tokens)
    requested = spec.train.eval_tokens
    if isinstance(requested, int):
        available = min(available, requested) if available else requested
    if spec.eval_windows != "all":
        available //= 2
    return max(1, available)
