"""A stated formula that does not fit the computation is found, with both figures."""

import pytest
import torch
import torch.nn.functional as F
from contract.planted import architecture
from torch import nn

from harness.contract.flops import count_flops, wrong_flops
from harness.contract.model import check_model
from variants.attention.mha import MultiHead
from variants.attention.sliding_window import SlidingWindow
from variants.base import FeedForward, InitSpec, ModelShape
from variants.linear import Linear
from variants.mlp.gelu import Gelu
from variants.norm.layernorm import LayerNorm

SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=64, seq_len=160, vocab_size=256)
C = SHAPE.n_embd
T = SHAPE.seq_len


class EinsumExperts(FeedForward):
    """Four experts as one tensor, which `linear_flops` does not see; all are computed."""

    def __init__(self, shape, options):
        super().__init__(shape, options)
        self.router = Linear(shape.n_embd, 4)
        self.up = nn.Parameter(torch.empty(4, shape.n_embd, 2 * shape.n_embd))
        self.down = nn.Parameter(torch.empty(4, 2 * shape.n_embd, shape.n_embd))

    def init_specs(self):
        return {"up": InitSpec(std=0.02), "down": InitSpec(std=0.02)}

    def forward(self, x_BTC):
        gates = self.router(x_BTC).softmax(-1)
        hidden = F.gelu(torch.einsum("btc,ech->bteh", x_BTC, self.up))
        return torch.einsum("bteh,ehc,bte->btc", hidden, self.down, gates)


class RoutedExperts(EinsumExperts):
    """As above, but each token visits one expert, which depends on its values."""

    def forward(self, x_BTC):
        y_BTC = torch.zeros_like(x_BTC)
        chosen = self.router(x_BTC).argmax(-1)
        for expert in chosen.unique().tolist():
            x = x_BTC[chosen == expert]
            y_BTC[chosen == expert] = F.gelu(x @ self.up[expert]) @ self.down[expert]
        return y_BTC + 0 * self.router(x_BTC).sum(-1, keepdim=True)


class LinearAttention(MultiHead):
    """A sum of products of k and v instead of scores, with the formula of softmax attention."""

    def attend(self, q, k, v, positions_T, positional):
        state = (k[..., None] * v[..., None, :]).cumsum(2)
        return torch.einsum("bhtd,bhtde->bhte", q, state)


class LowRankAttention(MultiHead):
    """A further projection by a parameter that is not a linear layer."""

    def __init__(self, shape, options, layer):
        super().__init__(shape, options, layer)
        self.mix = nn.Parameter(torch.empty(shape.n_embd, shape.n_embd))

    def init_specs(self):
        return {**super().init_specs(), "mix": InitSpec(std=0.02)}

    def forward(self, x_BTC, *others):
        return super().forward(x_BTC @ self.mix, *others)


class AllKeys(MultiHead):
    """States hidden keys, too."""

    def visible_keys(self, seq_len):
        return seq_len


class MaskedWindow(MultiHead):
    """Full attention with a mask that hides all but 16 keys, which the formula ignores."""

    def attend(self, q, k, v, positions_T, positional):
        distance = positions_T[:, None] - positions_T
        return self.scores(q, k, v, (distance >= 0) & (distance < 16))


class UncountedWindow(SlidingWindow):
    """A window with the formula of full attention."""

    def visible_keys(self, seq_len):
        return (seq_len + 1) / 2


class Whitening(LayerNorm):
    """A norm that multiplies with a matrix, of which no formula exists."""

    def __init__(self, shape, options):
        super().__init__(shape, options)
        self.matrix = Linear(shape.n_embd, 4 * shape.n_embd)

    def forward(self, x_BTC):
        return super().forward(x_BTC) + F.gelu(self.matrix(x_BTC))[..., :C]


WRONG = [EinsumExperts, LinearAttention, LowRankAttention, AllKeys, MaskedWindow]


@pytest.mark.parametrize("cls", WRONG, ids=lambda cls: cls.__name__)
def test_wrong_formula_is_found_with_both_figures(cls):
    """A formula that another computation inherits would give a wrong MFU and a wrong budget."""
    violations = wrong_flops(architecture(cls), SHAPE)
    paths = ("h.0.mlp", "h.1.mlp") if issubclass(cls, FeedForward) else ("h.0.attn", "h.1.attn")
    assert tuple(violation.where for violation in violations) == paths
    assert not any(violation.fatal for violation in violations)
    assert "`flops_per_token` states " in violations[0].message


def test_uncounted_window_is_found():
    """A window that computes in blocks executes fewer products than its formula states."""
    assert wrong_flops(architecture(UncountedWindow, {"window": 16}), SHAPE)


def test_einsum_experts_are_counted_by_hand():
    """The counted figure replaces the stated one, so it must be right."""
    flops = count_flops(architecture(EinsumExperts), SHAPE)
    experts = 2 * (4 * C + 2 * 4 * C * 2 * C)
    part = flops.parts[0]
    assert part.stated == 2 * 4 * C
    assert part.counted == pytest.approx(experts, rel=0.02)
    attention = 2 * 4 * C * C + 4 * C * (T + 1) / 2
    assert flops.counted == pytest.approx(
        3 * (2 * 256 * C + 2 * (attention + part.counted)), rel=0.01
    )
    assert flops.differs


def test_masked_window_is_counted_by_hand():
    """Only visible keys are required, whatever the kernel multiplies."""
    part = count_flops(architecture(MaskedWindow), SHAPE).parts[0]
    visible = (16 * 17 / 2 + (T - 16) * 16) / T
    assert part.counted == pytest.approx(8 * C * C + 4 * C * visible, rel=0.01)


def test_experts_that_depend_on_values_are_counted():
    """The meta device has no values, so the parts run on the CPU."""
    flops = count_flops(architecture(RoutedExperts), SHAPE)
    assert flops.parts[0].counted == pytest.approx(2 * (2 * 4 * C + 2 * C * 2 * C), rel=0.01)
    assert flops.differs


def test_products_of_a_norm_are_counted():
    """The model's formula knows attention and MLP only."""
    flops = count_flops(architecture(Whitening), SHAPE)
    assert not flops.parts
    assert flops.counted - flops.stated == pytest.approx(3 * 5 * 2 * 4 * C * C, rel=0.001)


def test_right_formula_has_no_finding():
    """A false alarm would replace an exact figure by an estimate."""
    for cls in (None, Gelu, MultiHead):
        flops = count_flops(architecture(cls), SHAPE)
        assert flops.counted == pytest.approx(flops.stated, rel=1e-3)


def test_wrong_flops_do_not_refuse_the_model():
    """The results of a model do not depend on its formula."""
    violations = check_model(architecture(EinsumExperts), SHAPE)
    assert {violation.check for violation in violations} == {"flops"}
