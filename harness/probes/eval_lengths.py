"""The validation loss of sequences shorter and longer than the trained length, and at each position of them."""

from typing import Any

import numpy as np
import torch
from torch import nn

from harness.distributed.process_group import DistributedContext
from harness.model.gpt import GPT
from harness.results.records import RunSpec
from harness.training.errors import is_out_of_memory
from harness.training.evaluation import Windows

MAX_BINS = 1024  # of positions; a length up to that has one for each


def measure(
    spec: RunSpec, model: nn.Module, gpt: GPT, ranks: DistributedContext
) -> list[dict[str, Any]]:
    """Return for each length `val_loss` and `loss_by_position`, nats per token, over `windows` windows.

    All is as in an evaluation, on all ranks, with about as many tokens for each length. `reason` tells what keeps a
    loss from being defined. `model` is `gpt` as the parallelism wrapped it. A compiled model runs as it is, since it
    would be compiled anew for every length.
    """
    with torch.compiler.set_stance("force_eager"):
        return [
            _measure(spec, model, gpt, ranks, length) for length in spec.probes.eval_lengths or ()
        ]


def _measure(
    spec: RunSpec, model: nn.Module, gpt: GPT, ranks: DistributedContext, length: int
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "length": length,
        "val_loss": None,
        "loss_by_position": [],
        "windows": 0,
    }
    if reason := gpt.why_unsupported_length(length):
        return record | {"reason": reason}
    windows = Windows(spec, ranks, length)
    try:
        loss_T = _loss_by_position(model, windows, ranks, length)
    except Exception as error:
        if ranks.world_size > 1 or not is_out_of_memory(
            error
        ):  # the other ranks may wait in the middle of the model
            raise
        return record | {"reason": "out of memory"}
    if not np.isfinite(loss_T).all():
        return record | {"reason": "the loss is not a finite number"}
    found = {
        "val_loss": float(loss_T.mean()),
        "loss_by_position": binned(loss_T),
        "windows": windows.n_windows,
    }
    return record | found | {"reason": None}


def _loss_by_position(
    model: nn.Module, windows: Windows, ranks: DistributedContext, length: int
) -> np.ndarray:
    """Return the mean over all windows of all ranks, (T,), float64."""
    nats_T = np.zeros(length)
    for losses_BT, _, weights in windows.losses(model):
        nats_T += weights @ losses_BT.cpu().numpy()
    return np.array(ranks.sum(*nats_T.tolist())) / (windows.n_windows * ranks.model_parallel_size)


def binned(loss_T: np.ndarray) -> list[float]:
    """Return the means over at most `MAX_BINS` equal bins: the i-th of n begins at position i * T // n, from 0."""
    n = min(len(loss_T), MAX_BINS)
    starts = np.arange(n) * len(loss_T) // n
    means: list[float] = (
        np.add.reduceat(loss_T, starts) / np.diff(starts, append=len(loss_T))
    ).tolist()
    return means
