"""Decoding cost: one pass over a prompt (prefill), then one token at a time with the KV cache."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product

import torch
from torch import Tensor

from harness.distributed.process_group import DistributedContext
from harness.model.builder import ModelBuilder
from harness.model.decoder import MIN_STEPS, step_graph
from harness.model.gpt import GPT
from harness.model.precision import dtype_of
from harness.probes.memory import is_out_of_memory
from harness.probes.timer import Timer
from harness.probes.whole_model import whole_model
from harness.results.records import DecodeRecord, RunSpec
from variants.errors import CODE_ERRORS, text_of

N_WARMUP = 2
N_PREFILLS = 5
N_STEPS = 40


def measure(
    spec: RunSpec, builder: ModelBuilder, gpt: GPT, context: DistributedContext
) -> list[DecodeRecord]:
    """Return raw prefill and decode times, in seconds, and cache bytes, by batch size and context.

    Every timed decoding step has exactly `context` positions in the cache, the new one included. It
    is a CUDA graph where long texts are decoded with one. A
    record that could not be measured has a `reason`. Rank 0 measures with the whole model and with
    the threads of all ranks of its machine; the other ranks return an empty list.
    """
    probe = spec.probes.decode
    if probe is None:
        return []
    dtype = dtype_of(spec.train.precision)
    model = whole_model(builder, gpt, context, dtype)
    if model is None:
        return []
    with _all_threads(), torch.inference_mode():
        settings = product(probe.batch, probe.context)
        return [_measure(model, batch, length, dtype) for batch, length in settings]


def _measure(model: GPT, batch: int, length: int, dtype: torch.dtype) -> DecodeRecord:
    reason = model.why_unsupported_length(length)
    if reason is None:
        try:
            return _time(model, batch, length, dtype)
        except NotImplementedError as error:
            reason = text_of(error)
        except CODE_ERRORS as error:
            if not is_out_of_memory(error):
                raise
            reason = "out of memory"
    return DecodeRecord(
        batch=batch, context=length, prefill_s=[], decode_s=[], cache_bytes=None, reason=reason
    )


def _time(model: GPT, batch: int, length: int, dtype: torch.dtype) -> DecodeRecord:
    device = model.wte.weight.device
    caches = model.caches(batch, length, dtype)
    tokens_BT = torch.zeros(batch, length, dtype=torch.long, device=device)

    def decode_eagerly(tokens_BT: Tensor) -> Tensor:
        return model.next_logits(tokens_BT, caches)

    def set_back(n_seen: int) -> None:
        for cache in caches:
            cache.n_seen = n_seen

    prefill_s = _repeat(lambda: set_back(0), decode_eagerly, tokens_BT, N_PREFILLS)
    set_back(length - 1)
    graph = step_graph(model, caches, batch, MIN_STEPS)

    def before_step() -> None:
        if graph is None:
            set_back(length - 1)
        else:
            graph.n_seen = length - 1

    return DecodeRecord(
        batch=batch,
        context=length,
        prefill_s=prefill_s,
        decode_s=_repeat(before_step, graph or decode_eagerly, tokens_BT[:, :1], N_STEPS),
        cuda_graph=graph is not None,
        cache_bytes=sum(cache.nbytes for cache in caches),
    )


def _repeat(
    prepare: Callable[[], None],
    next_logits: Callable[[Tensor], Tensor],
    tokens_BT: Tensor,
    repeats: int,
) -> list[float]:
    """Return the times of `repeats` passes; `prepare` runs before each and is not timed."""
    timer = Timer(tokens_BT.device)
    seconds = []
    for _ in range(N_WARMUP + repeats):
        prepare()
        with timer:
            next_logits(tokens_BT)
        seconds.append(timer.seconds)
    return seconds[N_WARMUP:]


@contextmanager
def _all_threads() -> Iterator[None]:
    """Use the threads of all ranks of this machine, which wait meanwhile."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(n_threads * int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
