"""Without these, a mixture of experts could not be trained: few tokens reach few experts."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from harness.contract.architecture import Architecture
from harness.contract.model import ModelChecks
from variants.base import FeedForward, ModelShape

SHAPE = ModelShape(n_layer=2, n_head=2, n_embd=16, seq_len=24, vocab_size=31)


@dataclass(frozen=True)
class ExpertOptions:
    n_experts: int = 8
    n_reachable: int = 8


class Experts(FeedForward[ExpertOptions]):
    """Each token is sent to one of the experts that can be reached."""

    Options = ExpertOptions

    def __init__(self, shape, options):
        super().__init__(shape, options)
        self.n_reachable = options.n_reachable
        self.router = nn.Linear(shape.n_embd, options.n_experts)
        self.experts = nn.ModuleList(
            nn.Linear(shape.n_embd, shape.n_embd) for _ in range(options.n_experts)
        )

    def forward(self, x_BTC):
        probabilities = self.router(x_BTC).softmax(-1)
        weight, chosen = probabilities[..., : self.n_reachable].max(-1, keepdim=True)
        outputs = [expert(x_BTC) * (chosen == i) for i, expert in enumerate(self.experts)]
        return torch.relu(weight * sum(outputs))


def violations(n_experts, n_reachable):
    options = ExpertOptions(n_experts, n_reachable)
    architecture = Architecture.of_entry({}, []).replaced("mlp", Experts, options)
    return ModelChecks(architecture, SHAPE).gradients()


@pytest.mark.parametrize("n_experts", [8, 32])
def test_experts_without_tokens_by_chance_are_not_dead(n_experts):
    assert violations(n_experts, n_experts) == []


def test_an_expert_that_no_token_reaches_is_dead():
    (violation,) = violations(8, 7)
    assert "dead: h.0.mlp.experts.7.weight (and 3 more)" in violation.message
