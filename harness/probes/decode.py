"""What decoding costs: a prompt in one pass, then one token at a time from the key-value cache."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
from torch import Tensor

from harness.distributed.process_group import DistributedContext
from harness.distributed.shards import gather_weights
from harness.model.builder import ModelBuilder
from harness.model.gpt import GPT
from harness.model.precision import dtype_of
from harness.probes.timer import Timer
from harness.results.records import RunSpec
from harness.training.errors import is_out_of_memory

N_WARMUP, N_PREFILLS, N_STEPS = 2, 5, 40


def measure(
    spec: RunSpec, parts: ModelBuilder, gpt: GPT, ranks: DistributedContext
) -> list[dict[str, Any]]:
    """Return for each batch and context: `prefill_s` and `decode_s`, raw, in seconds, and `cache_bytes`.

    A decoding step is timed over and over at the same place, with exactly `context` positions in the cache, the new one
    included. `reason` tells what keeps a measure from being defined. All is done on rank 0 with the whole model, and
    with all the threads that the ranks of its machine have together; the others return nothing.
    """
    probe, dtype = spec.probes.decode, dtype_of(spec.train.precision)
    if probe is None:
        return []
    weights = gather_weights(gpt, ranks)
    if not ranks.is_first:
        return []
    model = parts.model()
    model.load_state_dict(
        {name: tensor.to(ranks.device, dtype) for name, tensor in weights.items()}, assign=True
    )
    model.eval()
    with _all_threads(), torch.inference_mode():
        return [
            _measure(model, batch, context, dtype)
            for batch, context in product(probe.batch, probe.context)
        ]


def _measure(model: GPT, batch: int, context: int, dtype: torch.dtype) -> dict[str, Any]:
    record: dict[str, Any] = {
        "batch": batch,
        "context": context,
        "prefill_s": [],
        "decode_s": [],
        "cache_bytes": None,
    }
    if reason := model.why_unsupported_length(context):
        return record | {"reason": reason}
    try:
        return record | _timed(model, batch, context, dtype) | {"reason": None}
    except NotImplementedError as error:
        return record | {"reason": str(error)}
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return record | {"reason": "out of memory"}


def _timed(model: GPT, batch: int, context: int, dtype: torch.dtype) -> dict[str, Any]:
    device = model.wte.weight.device
    caches, timer = model.caches(batch, context, dtype), Timer(device)
    tokens_BT = torch.zeros(batch, context, dtype=torch.long, device=device)

    def seconds(seen: int, tokens_BT: Tensor, repeats: int) -> list[float]:
        times = []
        for _ in range(N_WARMUP + repeats):
            for cache in caches:
                cache.n_seen = seen
            with timer:
                model.next_logits(tokens_BT, caches)
            times.append(timer.seconds)
        return times[N_WARMUP:]

    return {
        "prefill_s": seconds(0, tokens_BT, N_PREFILLS),
        "decode_s": seconds(context - 1, tokens_BT[:, :1], N_STEPS),
        "cache_bytes": sum(cache.nbytes for cache in caches),
    }


@contextmanager
def _all_threads() -> Iterator[None]:
    """Use the threads of the other ranks of this machine too; they wait meanwhile."""
    mine = torch.get_num_threads()
    torch.set_num_threads(mine * int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    try:
        yield
    finally:
        torch.set_num_threads(mine)
