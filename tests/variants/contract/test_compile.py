"""Blocks compile as a whole and compute the same."""

import itertools

import pytest
import torch
from contract.cases import (
    ATTENTIONS,
    BOTH_KINDS,
    MLPS,
    NORMS,
    POSITIONS,
    VARIED_ATTENTIONS,
    VARIED_POSITIONALS,
    cases,
    inputs,
    make_gpt,
    named,
    pair,
    randomize,
)

from variants import registry


def compiled_blocks():
    """Yield blocks such that every variant is in one of them; each takes almost a second."""
    attentions = [
        *named(ATTENTIONS, *registry.files("attention")),
        *(a for a in VARIED_ATTENTIONS if a.name == "mha"),
    ]
    positionals = [*cases("positional"), *(p for p in VARIED_POSITIONALS if p.name == "rope")]
    n = max(map(len, (attentions, positionals, NORMS, MLPS)))
    for block in itertools.islice(
        zip(*map(itertools.cycle, (attentions, positionals, NORMS, MLPS)), strict=True), n
    ):
        yield from (
            (*allowed, *block[2:])
            for allowed in pair(block[:1], block[1:2]) or pair(block[:1], BOTH_KINDS[:1])
        )


@pytest.mark.filterwarnings(
    "ignore:.*torch.autograd.function.Function.*should not be instantiated:DeprecationWarning"
)
@pytest.mark.parametrize(
    ("attention", "positional", "norm", "mlp"), list(compiled_blocks()), ids=str
)
def test_compiled_block_equals_the_uncompiled(attention, positional, norm, mlp):
    """`compile = true` compiles blocks; a graph break would make a variant slow."""
    model, outcomes = randomize(make_gpt(attention, positional, norm, mlp)), []
    block, positional = model.h[0], model.positional
    torch._dynamo.reset()
    for run in (block, torch.compile(block, backend="aot_eager", fullgraph=True, dynamic=False)):
        x = inputs().requires_grad_()
        y = run(x, POSITIONS, positional)
        outcomes.append([y, *torch.autograd.grad((y * inputs(6)).sum(), [x, *block.parameters()])])
    for plain, compiled in zip(*outcomes, strict=True):
        torch.testing.assert_close(compiled, plain, atol=1e-4, rtol=1e-4)
