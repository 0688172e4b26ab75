"""Each kind of fault of a variant is found by name and place, and a sound model has none."""

import random
from dataclasses import replace

import pytest
import torch
from contract.planted import architecture
from torch import nn

from harness.contract.model import Conditions, check_model
from variants.attention.mha import MultiHead
from variants.attention.sliding_window import SlidingWindow
from variants.base import ModelShape, Positional
from variants.mlp.gelu import Gelu
from variants.norm.layernorm import LayerNorm
from variants.positional.learned import Learned

SHAPE = ModelShape(n_layer=3, n_head=4, n_embd=64, seq_len=80, vocab_size=256)


class NextToken(Gelu):
    def forward(self, x_BTC):
        return super().forward(x_BTC) + x_BTC.roll(-1, 1)


class NextTokenInTraining(NextToken):
    def forward(self, x_BTC):
        return super().forward(x_BTC) if self.training else Gelu.forward(self, x_BTC)


class NextTokenInEvaluation(NextToken):
    def forward(self, x_BTC):
        return Gelu.forward(self, x_BTC) if self.training else super().forward(x_BTC)


class NextTokenAtOddLength(NextToken):
    def forward(self, x_BTC):
        if x_BTC.shape[1] == 17:
            return super().forward(x_BTC)
        return Gelu.forward(self, x_BTC)


class NextTokenAtTrainedLength(NextToken):
    def forward(self, x_BTC):
        if x_BTC.shape[1] == 80:
            return super().forward(x_BTC)
        return Gelu.forward(self, x_BTC)


class DetachedNextToken(Gelu):
    def forward(self, x_BTC):
        return super().forward(x_BTC) + x_BTC.detach().roll(-1, 1)


class ChosenTokens(Gelu):
    """Tokens compete for the MLP, as experts that choose their tokens let them."""

    def forward(self, x_BTC):
        score_BT = x_BTC.detach().sum(-1)
        least_B1 = score_BT.topk(x_BTC.shape[1] // 2 + 1, dim=1).values[:, -1:]
        return super().forward(x_BTC) * (score_BT >= least_B1)[..., None]


class FaintNextToken(Gelu):
    def forward(self, x_BTC):
        return super().forward(x_BTC) + 1e-4 * x_BTC.roll(-1, 1)


class MeanNorm(LayerNorm):
    def forward(self, x_BTC):
        return super().forward(x_BTC - x_BTC.mean(1, keepdim=True))


class LeakingPositional(Learned):
    def embed(self, x_BTC, positions_T):
        return super().embed(x_BTC, positions_T) + x_BTC.flip(1)


class NotCausal(MultiHead):
    def attend(self, q, k, v, positions_T, positional):
        return self.scores(q, k, v, positional.bias(positions_T, positions_T))


class LeakBeyondWindow(SlidingWindow):
    def attend(self, q, k, v, positions_T, positional):
        y = super().attend(q, k, v, positions_T, positional)
        beyond = torch.arange(y.shape[2], device=y.device) >= 40
        return torch.where(beyond[:, None], y + v.roll(-1, 2), y)


class LastLayer(MultiHead):
    def __init__(self, shape, options, layer):
        super().__init__(shape, options, layer)
        self.last = layer == 9

    def forward(self, x_BTC, *others):
        y_BTC = super().forward(x_BTC, *others)
        return y_BTC + x_BTC.roll(-1, 1) if self.last else y_BTC


class BatchMean(LayerNorm):
    def forward(self, x_BTC):
        return super().forward(x_BTC - x_BTC.mean(0, keepdim=True))


class BatchSize(Gelu):
    def forward(self, x_BTC):
        return super().forward(x_BTC) * len(x_BTC)


class Unused(Gelu):
    def __init__(self, shape, options):
        super().__init__(shape, options)
        self.extra = nn.Linear(3, 3)


class Detached(Gelu):
    def forward(self, x_BTC):
        return self.c_proj(self.activation(self.c_fc(x_BTC).detach()))


class Zeroed(Gelu):
    """Every parameter is used, but multiplied by zero."""

    def forward(self, x_BTC):
        return 0.0 * super().forward(x_BTC)


class Undeclared(Gelu):
    def __init__(self, shape, options):
        super().__init__(shape, options)
        self.gain = nn.Parameter(torch.ones(shape.n_embd))

    def forward(self, x_BTC):
        return self.gain * super().forward(x_BTC)


class Buffer(Gelu):
    def __init__(self, shape, options):
        super().__init__(shape, options)
        self.register_buffer("factor", torch.ones(()))

    def forward(self, x_BTC):
        return self.factor * super().forward(x_BTC)


class Counter(Gelu):
    calls = 0

    def forward(self, x_BTC):
        self.calls += 1
        return super().forward(x_BTC) * (1 + self.calls / 10)


class StaleMask(MultiHead):
    mask = None

    def attend(self, q, k, v, positions_T, positional):
        if self.mask is None:
            self.mask = v.mean().detach()
        return super().attend(q, k, v, positions_T, positional) + self.mask


class Noise(Gelu):
    def forward(self, x_BTC):
        return super().forward(x_BTC) + torch.randn_like(x_BTC)


class PythonRandom(Gelu):
    def forward(self, x_BTC):
        return super().forward(x_BTC) * (1 if random.random() < 2 else 0)


class RandomScale(Gelu):
    def __init__(self, shape, options):
        super().__init__(shape, options)
        self.scale = 1 + random.random()

    def forward(self, x_BTC):
        return self.scale * super().forward(x_BTC)


class InPlace(LayerNorm):
    def forward(self, x_BTC):
        if not torch.is_grad_enabled():
            x_BTC.mul_(0.5)
        return super().forward(x_BTC)


class Double(Gelu):
    def forward(self, x_BTC):
        return super().forward(x_BTC).double()


class WrongShape(Gelu):
    def forward(self, x_BTC):
        return super().forward(x_BTC)[:, :1]


class NotFinite(Gelu):
    def forward(self, x_BTC):
        return super().forward(x_BTC) / 0.0


class RaisesInForward(Gelu):
    def forward(self, x_BTC):
        raise TypeError("no such thing")


class RaisesInInit(Gelu):
    def __init__(self, shape, options):
        raise KeyError("missing")


class UndeclaredBias(Positional):
    def bias(self, q_positions, k_positions):
        return -(q_positions[..., None] - k_positions[..., None, :]).abs()[None].float()


class Extrapolating(Learned):
    extrapolates = True


class WrongCache(MultiHead):
    def attend_cache(self, q_BH1D, cache, position_1, positional):
        return super().attend_cache(0.9 * q_BH1D, cache, position_1, positional)


class WrongStaticCache(MultiHead):
    supports_static_cache = True

    def attend_cache(self, q_BH1D, cache, position_1, positional):
        return self.scores(q_BH1D, *cache.visible(), None)


class HostPosition(MultiHead):
    supports_static_cache = True

    def attend_cache(self, q_BH1D, cache, position_1, positional):
        k_BHLD, v_BHLD = (buffer[:, :, : cache.n_seen] for buffer in cache.visible())
        return self.scores(q_BH1D, k_BHLD, v_BHLD, None)


LEAKS = [
    (NextToken, "h.0.mlp"),
    (NextTokenInTraining, "h.0.mlp"),
    (NextTokenInEvaluation, "h.0.mlp"),
    (NextTokenAtOddLength, "h.0.mlp"),
    (NextTokenAtTrainedLength, "h.0.mlp"),
    (DetachedNextToken, "h.0.mlp"),
    (FaintNextToken, "h.0.mlp"),
    (MeanNorm, "h.0.ln_1"),
    (LeakingPositional, "positional.embed"),
    (NotCausal, "h.0.attn"),
]


@pytest.mark.parametrize(("cls", "where"), LEAKS, ids=lambda value: getattr(value, "__name__", ""))
def test_leak_is_found_where_it_enters(cls, where):
    """A model that reads the next token would win every comparison."""
    (violation,) = [found for found in check_model(architecture(cls), SHAPE) if found.fatal]
    assert violation.check == "causality"
    assert violation.where.startswith(f"{where} ({cls.__name__}, {__file__}:")
    assert "depends on token" in violation.message


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_leak_through_a_choice_is_located(dropout):
    """A choice has no gradient, and few changes of tokens change it; dropout changes it, too."""
    (violation,) = check_model(architecture(ChosenTokens), replace(SHAPE, dropout=dropout))
    assert violation.check == "causality"
    assert ".mlp (ChosenTokens" in violation.where


def test_leak_names_the_smallest_evidence():
    """The nearest pair of positions shows which index is off by one."""
    (violation,) = check_model(architecture(NextToken), SHAPE)
    assert "the output at position 0 depends on token 1 (" in violation.message


def test_leak_beyond_the_window_is_found():
    """Short sequences never leave the window, so that they would not show it."""
    (violation,) = check_model(architecture(LeakBeyondWindow, {"window": 40}), SHAPE)
    assert violation.check == "causality"
    assert "the output at position 40 depends on token 41" in violation.message


def test_leak_in_a_deep_layer_is_found():
    """Shallow models are fast, but do not have every layer."""
    deep = ModelShape(n_layer=12, n_head=4, n_embd=64, seq_len=80, vocab_size=256)
    (violation,) = check_model(architecture(LastLayer), deep)
    assert violation.where.startswith(f"h.9.attn (LastLayer, {__file__}:")


FAULTS = [
    (BatchMean, "batch", "the outputs of sequence 0 depend on sequence 1"),
    (BatchSize, "batch", "depend on the size of the batch"),
    (Unused, "gradients", "h.0.mlp.extra.weight (and 5 more) never receives a gradient"),
    (Detached, "gradients", "h.0.ln_2.weight (and 11 more)"),
    (Zeroed, "gradients", "h.0.ln_2.weight (and 17 more)"),
    (Undeclared, "initial values", "h.0.mlp.gain"),
    (Buffer, "build", "the tensor `factor` of Buffer has no values"),
    (Counter, "reproducible", "two passes of one model have different losses"),
    (StaleMask, "state", "depends on earlier calls"),
    (PythonRandom, "random numbers", "(random) in evaluation mode"),
    (RandomScale, "reproducible", "two models of one seed"),
    (Noise, "random numbers", "(torch) in evaluation mode"),
    (InPlace, "input", "changes its input in place"),
    (Double, "output", "returns torch.float64"),
    (WrongShape, "output", "returns (2, 1, 16) for an input of shape (2, 24, 16)"),
    (NotFinite, "finite", "the output is not finite"),
    (RaisesInForward, "output", "TypeError: no such thing"),
    (RaisesInInit, "build", "KeyError: 'missing'"),
    (UndeclaredBias, "has_bias", "`bias` returns a tensor"),
    (Extrapolating, "extrapolates", "positions from seq_len on raise"),
    (WrongCache, "cache", "after a prompt of 1 tokens, the logits at position 1 differ"),
    (WrongStaticCache, "cache", "with a static cache only; use the bias of the cache"),
    (HostPosition, "cache", "with a static cache only; use the bias of the cache"),
]


@pytest.mark.parametrize(
    ("cls", "check", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", "")
)
def test_fault_is_named(cls, check, message):
    """A fault that is found only by its numbers is blamed on the idea."""
    violations = check_model(architecture(cls), SHAPE)
    assert [violation.check for violation in violations] == [check], violations
    assert message in violations[0].message


def test_exception_names_the_line_of_the_variant():
    """A traceback of the harness would hide the line that the user can fix."""
    (violation,) = check_model(architecture(RaisesInForward), SHAPE)
    file, _, line = violation.where.rpartition(":")
    assert file == __file__
    assert int(line) > 0


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sound_model_has_no_violation(dropout, precision):
    """A false alarm would refuse a study."""
    shape = ModelShape(n_layer=2, n_head=2, n_embd=32, seq_len=40, vocab_size=256, dropout=dropout)
    assert check_model(architecture(), shape, Conditions(precision)) == []


class FixedWidth(Gelu):
    """Works at one width, without a `check` that says so."""

    def __init__(self, shape, options):
        super().__init__(shape, options)
        self.c_fc = nn.Linear(64, 256)
        self.c_proj = nn.Linear(256, 64)

    def forward(self, x_BTC):
        return super().forward(x_BTC.unflatten(-1, (4, 16)).flatten(-2))


def test_variant_of_one_width_is_checked_at_it():
    """The small shape is the check's own, so that it must not refuse a study."""
    assert check_model(architecture(FixedWidth), SHAPE) == []


class NextTokenAtOnePosition(Gelu):
    def forward(self, x_BTC):
        y_BTC = super().forward(x_BTC)
        if x_BTC.shape[1] > 62:
            y_BTC = torch.cat((y_BTC[:, :61], y_BTC[:, 61:62] + x_BTC[:, 62:63], y_BTC[:, 62:]), 1)
        return y_BTC


def test_leak_at_one_position_is_found():
    """Blocks of queries may see a later token at their last position only."""
    (violation,) = check_model(architecture(NextTokenAtOnePosition), SHAPE)
    assert "the output at position 61 depends on token 62" in violation.message


def test_checks_restore_the_global_state():
    """A check that seeds the process would change the run that follows."""
    state = torch.get_rng_state()
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    check_model(architecture(), SHAPE)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert torch.are_deterministic_algorithms_enabled() == deterministic
