"""The full contract of one variant finds the faults of its part, at each sample of its options."""

from dataclasses import dataclass, field
from typing import Literal

import pytest
import torch
import torch.nn.functional as F

from harness.contract.options import samples
from harness.contract.variant import run_all
from variants.attention.mha import MultiHead
from variants.base import AXES, ModelShape, NoOptions, Positional
from variants.conversion import conversion
from variants.mlp.gelu import Gelu
from variants.norm.layernorm import LayerNorm
from variants.positional.learned import Learned
from variants.positional.sinusoidal import Sinusoidal

SHAPE = ModelShape(n_layer=2, n_head=2, n_embd=16, seq_len=24, vocab_size=64)


def failed(cls, options=None):
    """Return the messages of the checks that fail, by name."""
    axis = next(axis for axis, about in AXES.items() if issubclass(cls, about.base))
    results = run_all(axis, cls, cls.Options() if options is None else options, SHAPE)
    return {result.name: result.message for result in results if result.outcome == "failed"}


class Undeclared(Positional):
    def bias(self, q_positions, k_positions):
        return -(q_positions[:, None] - k_positions).abs()[None].float()


class NoBias(Positional):
    has_bias = True


class Extrapolating(Learned):
    extrapolates = True


class NotExtrapolating(Sinusoidal):
    extrapolates = False


class Relative(Positional):
    """Depends on the length of the sequence."""

    def embed(self, x_BTC, positions_T):
        return x_BTC + (positions_T / len(positions_T))[:, None]


class Promoting(Positional):
    def rotate(self, q_BHTD, k_BGTD, positions_T):
        return q_BHTD.float(), k_BGTD


class AlwaysDropping(Gelu):
    def forward(self, x_BTC):
        y_BTC = self.c_proj(self.activation(self.c_fc(x_BTC)))
        return F.dropout(y_BTC, self.dropout, training=True)


class WithoutDropout(MultiHead):
    def __init__(self, shape, options, layer):
        super().__init__(shape, options, layer)
        self.dropout = 0.0


class WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return grad


class WrongGradient(Gelu):
    def activation(self, x):
        return WrongBackward.apply(x)


class Rounded(LayerNorm):
    """Computes in bf16 what autocast leaves in fp32."""

    def forward(self, x_BTC):
        if torch.is_autocast_enabled("cpu"):
            x_BTC = (x_BTC * 10 + 1000).bfloat16().float() / 10 - 100
        return super().forward(x_BTC)


class Shifted(Gelu):
    def forward(self, x_BTC):
        return super().forward(x_BTC) + F.pad(x_BTC, (0, 0, 1, 0))[:, :-1]


FAULTS = [
    (Undeclared, "has_bias", "`has_bias` is False, but `bias` returns a tensor"),
    (NoBias, "has_bias", "`has_bias` is True, but `bias` returns None"),
    (Extrapolating, "extrapolates", "positions from seq_len on raise"),
    (NotExtrapolating, "extrapolates", "raise no IndexError"),
    (Relative, "positions", "`embed` at some positions differs"),
    (Promoting, "output", "`rotate` returns (2, 2, 24, 4) torch.float32"),
    (AlwaysDropping, "dropout", "acts in evaluation mode"),
    (WithoutDropout, "dropout", "0% of the outputs are dropped"),
    (WrongGradient, "differences", "gradients differ from finite differences"),
    (Rounded, "bf16", "differs from that in fp32 by"),
    (Shifted, "positionwise", "the output at position 9 depends on position 8"),
]


@pytest.mark.parametrize(
    ("cls", "check", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", "")
)
def test_fault_of_a_part_is_named(cls, check, message):
    """A declaration that is wrong lets a study accept what it must refuse."""
    assert message in failed(cls).get(check, ""), failed(cls)


@dataclass(frozen=True)
class Switches:
    peek: bool = False
    kind: Literal["plain", "peeking"] = "plain"


class Switched(Gelu):
    Options = Switches

    def __init__(self, shape, options):
        super().__init__(shape, Gelu.Options())
        self.peeks = options.peek or options.kind == "peeking"

    @classmethod
    def check(cls, shape, options):
        return {}

    def forward(self, x_BTC):
        y_BTC = super().forward(x_BTC)
        return y_BTC + x_BTC.roll(-1, 1) if self.peeks else y_BTC


def test_leak_behind_an_option_is_found_with_its_value():
    """The defaults alone would pass, and the study that sets the option would be wrong."""
    assert failed(Switched)["causality"].startswith("with peek=True: ")
    assert failed(Switched, Switches(kind="peeking"))["causality"].startswith("h.0.mlp")


@dataclass(frozen=True)
class Sampled:
    flag: bool = False
    mode: Literal["a", "b", "c"] = "a"
    number: int = 3
    pooling: Literal["mean", "first"] = field(default_factory=lambda: "mean")
    loaded: Literal["x", "y"] = conversion("x")


class WithSamples(LayerNorm):
    Options = Sampled

    @classmethod
    def check(cls, shape, options):
        return {"mode": "is refused"} if options.mode == "c" else {}


def test_options_are_sampled_one_at_a_time():
    """Values that `check` refuses and conversions of checkpoints are left out."""
    given = Sampled()
    found = list(samples(WithSamples, given, SHAPE, {"number": (4,)}))
    changed = [Sampled(flag=True), Sampled(mode="b"), Sampled(number=4), Sampled(pooling="first")]
    assert found == [given, *changed]


@pytest.mark.parametrize("cls", [LayerNorm, MultiHead, Gelu, Learned], ids=lambda cls: cls.__name__)
def test_shipped_variant_passes_every_check(cls):
    """A checklist with a false alarm is not read."""
    assert failed(cls) == {}


def test_variant_without_options_passes():
    """`NoOptions` has no fields to sample."""
    assert list(samples(LayerNorm, NoOptions(), SHAPE)) == [NoOptions()]
