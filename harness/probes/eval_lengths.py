"""Validation loss of sequences shorter and longer than in training, and by position."""

import numpy as np
from torch import nn

from harness.data.shards import verify
from harness.distributed.process_group import DistributedContext
from harness.model.gpt import GPT
from harness.probes.memory import is_out_of_memory
from harness.probes.validation import ValidationWindows
from harness.results.records import LengthRecord, RunSpec
from variants.errors import CODE_ERRORS

MAX_BINS = 1024  # of positions; shorter sequences have one bin per position


def measure(
    spec: RunSpec, model: nn.Module, gpt: GPT, context: DistributedContext
) -> list[LengthRecord]:
    """Return validation loss and loss by position, in nats per token, for each length of the study.

    Evaluates as during training, on all ranks, with about as many tokens at each length. `model` is
    `gpt` as the parallelism wrapped it. A record whose loss is undefined has a `reason`.
    """
    lengths = spec.probes.eval_lengths or []
    records = [_measure(spec, model, gpt, context, length) for length in lengths]
    if lengths:
        verify(spec.launch.val_tokens)  # each length has opened them again
    return records


def _measure(
    spec: RunSpec, model: nn.Module, gpt: GPT, context: DistributedContext, length: int
) -> LengthRecord:
    reason = gpt.why_unsupported_length(length)
    if reason is not None:
        return _undefined(length, reason)
    windows = ValidationWindows(spec, context, length)
    try:
        loss_T = _loss_by_position(model, windows, context, length)
    except CODE_ERRORS as error:
        # With several ranks the others may wait in a collective of the model.
        if context.world_size > 1 or not is_out_of_memory(error):
            raise
        return _undefined(length, "out of memory")
    if not np.isfinite(loss_T).all():
        return _undefined(length, "the loss is not a finite number")
    return LengthRecord(
        length=length,
        val_loss=float(loss_T.mean()),
        loss_by_position=bin_positions(loss_T),
        windows=windows.n_windows,
    )


def _undefined(length: int, reason: str) -> LengthRecord:
    return LengthRecord(length=length, val_loss=None, loss_by_position=[], windows=0, reason=reason)


def _loss_by_position(
    model: nn.Module, windows: ValidationWindows, context: DistributedContext, length: int
) -> np.ndarray:
    """Return the mean loss at each position over the windows of all ranks, (T,), float64."""
    nats_T = np.zeros(length)
    for batch in windows.losses(model):
        nats_T += batch.weights @ batch.losses_BT.cpu().numpy()
    n_summed = windows.n_windows * context.model_parallel_size
    return np.array(context.sum(*nats_T.tolist())) / n_summed


def bin_positions(loss_T: np.ndarray) -> list[float]:
    """Return the means of up to `MAX_BINS` equal bins; bin i of n starts at position i * T // n."""
    n_bins = min(len(loss_T), MAX_BINS)
    starts = np.arange(n_bins) * len(loss_T) // n_bins
    sums = np.add.reduceat(loss_T, starts)
    means: list[float] = (sums / np.diff(starts, append=len(loss_T))).tolist()
    return means
