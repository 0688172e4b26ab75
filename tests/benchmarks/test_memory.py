"""Peak memory of a training step of GPT-2 124M with 8 sequences of 1,024 tokens.

The tensors are fake: a step takes a second or two on any machine, and always has the same peak.
"""

import functools

import peak_memory
import pytest
import torch

from harness.model.builder import ModelBuilder
from harness.model.gpt import GPT
from harness.model.loss import mean_loss
from harness.model.precision import autocast
from variants.base import ModelShape

SHAPE = ModelShape(n_layer=12, n_head=12, n_embd=768, seq_len=1024, vocab_size=50257)
BATCH = 8


@functools.cache
def step_bytes(precision, loss_chunk=None, recompute="none"):
    """Return the peak of a step with fused AdamW."""

    def make_step():
        model = GPT(SHAPE, ModelBuilder(SHAPE, {}, []))
        model.loss_chunk = loss_chunk
        model.recompute = recompute
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        tokens_BT = torch.zeros(BATCH, SHAPE.seq_len, dtype=torch.long)

        def step():
            with autocast(torch.device("cpu"), precision):
                losses_BT = model(tokens_BT, tokens_BT)
            mean_loss(losses_BT).backward()
            del losses_BT
            optimizer.step()
            optimizer.zero_grad()

        return step

    return peak_memory.peak_bytes(make_step)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("settings", "at_most"),
    [
        pytest.param({"loss_chunk": 512}, 0.6, id="loss_chunk"),
        pytest.param({"recompute": "attention"}, 0.96, id="attention"),
        pytest.param({"recompute": "block"}, 0.75, id="block"),
        pytest.param({"loss_chunk": 512, "recompute": "block"}, 0.3, id="loss_chunk_block"),
    ],
)
def test_memory(compare_memory, precision, settings, at_most):
    compare_memory(
        step_bytes(precision, **settings),
        peer="neither setting",
        peer_bytes=step_bytes(precision),
        at_most=at_most,
    )
