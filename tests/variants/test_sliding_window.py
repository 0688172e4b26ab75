"""Sliding window: what lies outside is not seen, what lies inside is, and the saving is real."""

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from harness.worker.probes.first_step import CPU_KERNELS
from variants import catalogue
from variants.api import Positional, Shape

SHAPE = Shape(n_layer=2, n_head=4, n_embd=32, seq_len=24, vocab_size=13)
T = SHAPE.seq_len


class DistanceBias(Positional):
    uses_bias = True

    def bias(self, q_positions, k_positions):
        distance = (q_positions[..., :, None] - k_positions[..., None, :]).unsqueeze(-3)
        return -distance * 0.5 ** torch.arange(1.0, 5.0)[:, None, None]


def make(name, shape=SHAPE, **options):
    cls = catalogue.load("attention", name)
    layer = cls(shape, cls.Options(**options), 0)
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return layer


def rope(shape=SHAPE):
    cls = catalogue.load("positional", "rope")
    return cls(shape, cls.Options())


def inputs(n_batch=2, shape=SHAPE):
    return torch.randn(n_batch, shape.seq_len, shape.n_embd, generator=torch.Generator().manual_seed(2))


positionals = pytest.mark.parametrize("positional", [rope(), DistanceBias(SHAPE, None)], ids=["rope", "bias"])


@positionals
@pytest.mark.parametrize("window", [1, 2, 5, 8, 23])
def test_a_token_outside_the_window_changes_no_bit_and_one_inside_does(window, positional):
    """A window that is silently ignored, or is off by one, would be reported as a result about windows."""
    layer, x = make("sliding_window", window=window), inputs()
    positions = torch.arange(T)
    with torch.no_grad():
        before = layer(x, positions, positional)
        for s in range(T):
            perturbed = x.clone()
            perturbed[:, s] += 1.0
            changed = (layer(perturbed, positions, positional) != before).any(-1)
            seeing = (positions >= s) & (positions < s + window)
            assert torch.equal(changed, seeing.expand(2, T)), f"token {s}"


@positionals
@pytest.mark.parametrize("window", [24, 25, 1000])
def test_a_window_over_the_whole_sequence_is_full_attention_bit_for_bit(window, positional):
    """Else a study over window sizes would not meet its own baseline at the end of the scale."""
    results = []
    for layer in (make("mha"), make("sliding_window", window=window)):
        x = inputs().requires_grad_()
        y = layer(x, torch.arange(T), positional)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])])
    for full, windowed in zip(*results, strict=True):
        assert torch.equal(full, windowed)


class LargestTensor(TorchDispatchMode):
    """Notes how many elements the largest tensor has that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [
            t.untyped_storage().nbytes() // t.element_size() for t in tree_leaves(out) if isinstance(t, torch.Tensor)
        ]
        self.largest = max(self.largest, *sizes, 0)
        return out


def cost(name, seq_len, positional=None, **options):
    """Return the attention kernels' FLOPs and the largest tensor's elements of a forward and backward pass."""
    shape = Shape(n_layer=1, n_head=4, n_embd=32, seq_len=seq_len, vocab_size=13)
    layer, x = make(name, shape, **options), inputs(1, shape).requires_grad_()
    counter, largest = FlopCounterMode(display=False, custom_mapping=CPU_KERNELS), LargestTensor()
    with counter, largest:
        layer(x, torch.arange(seq_len), positional or rope(shape)).sum().backward()
    counts = counter.get_flop_counts()["Global"]
    return sum(n for op, n in counts.items() if "attention" in str(op)), largest.largest


@pytest.mark.parametrize("window", [32, 100])
def test_flops_grow_with_sequence_times_window(window):
    """The promise of a window: without it one pays for full attention and loses quality for nothing."""
    flops = {seq_len: cost("sliding_window", seq_len, window=window)[0] for seq_len in (512, 1024, 2048)}
    per_pair = 14 * SHAPE.n_embd  # 4 forward, 10 backward
    for seq_len, counted in flops.items():
        n_blocks = math.ceil(seq_len / window)
        assert counted == per_pair * window**2 * (1 + 2 * (n_blocks - 1))
    assert cost("mha", 2048)[0] == per_pair * 2048**2
    assert cost("mha", 2048)[0] > 5 * flops[2048]


@pytest.mark.parametrize("kind", ["rope", "bias"])
def test_memory_grows_with_sequence_times_window(kind):
    positional = DistanceBias(SHAPE, None) if kind == "bias" else None
    window, n_embd, n_head = 32, 32, 4
    largest = {seq_len: cost("sliding_window", seq_len, positional, window=window)[1] for seq_len in (512, 1024, 4096)}
    for seq_len, found in largest.items():
        bound = n_head * seq_len * 2 * window if kind == "bias" else 4 * n_embd * seq_len
        assert found <= bound < n_head * seq_len**2
    if kind == "bias":
        assert cost("mha", 1024, positional)[1] == n_head * 1024**2
