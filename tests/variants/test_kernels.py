"""Every kernel computes the formula of attention."""

import pytest
import torch

from variants.attention._flex_tiles import can_tile
from variants.attention._kernels import FUSED_BF16_MIN_QUERIES, Kernel, attend, choose_kernel
from variants.attention._window import Window
from variants.optimizer.muon import iteration_precision

SHAPE_Q, SHAPE_K = (2, 4, 24, 16), (2, 2, 24, 16)  # two query heads for each key-value head
CAUSAL = torch.ones(24, 24, dtype=torch.bool).tril()
ADDED = torch.linspace(-2, 0, 24 * 24).view(24, 24).masked_fill(~CAUSAL, -torch.inf)


def formula(q, k, v, mask, scale, softcap):
    """Return attention in float64, as the papers define it."""
    q, k, v = (x.double() for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    scores = q @ k.mT * scale
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    if mask is not None:
        scores = (
            scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        )
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("trained", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("softcap", [0.0, 0.5])
@pytest.mark.parametrize(
    ("mask", "is_causal"),
    [(None, False), (None, True), (CAUSAL, False), (ADDED, False)],
    ids=["all", "causal", "seen", "added"],
)
def test_every_kernel_computes_the_formula(dtype, trained, softcap, mask, is_causal):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(shape, generator=generator).to(dtype) for shape in (SHAPE_Q, SHAPE_K, SHAPE_K)
    )
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    exact = [x.clone().double().requires_grad_() for x in (q, k, v)]
    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.04, "rtol": 0.04}
    with torch.set_grad_enabled(trained):
        y = attend(*leaves, mask, is_causal=is_causal, scale=0.3, softcap=softcap)
    expected = formula(*exact, CAUSAL if is_causal else mask, 0.3, softcap)
    torch.testing.assert_close(y.double(), expected, **close)
    if trained:
        grads, wanted = (
            torch.autograd.grad(y.sum(), leaves),
            torch.autograd.grad(expected.sum(), exact),
        )
        for grad, want in zip(grads, wanted, strict=True):
            torch.testing.assert_close(
                grad.double(), want, atol=20 * close["atol"], rtol=close["rtol"]
            )


def kernels(dtype, n_queries, trained):
    q = torch.randn(1, 1, n_queries, 16, dtype=dtype, requires_grad=trained)
    with torch.profiler.profile() as profile, torch.set_grad_enabled(trained):
        attend(q, q, q, None, is_causal=True)
    return any("flash" in event.name for event in profile.events())


def test_fused_kernel_is_avoided_only_where_it_is_slow():
    assert not kernels(torch.bfloat16, FUSED_BF16_MIN_QUERIES, trained=True)
    assert kernels(torch.bfloat16, FUSED_BF16_MIN_QUERIES + 1, trained=True)
    assert kernels(torch.bfloat16, FUSED_BF16_MIN_QUERIES, trained=False)
    assert kernels(torch.float32, FUSED_BF16_MIN_QUERIES, trained=True)


FEW, MANY = FUSED_BF16_MIN_QUERIES, FUSED_BF16_MIN_QUERIES + 1
FP32, BF16 = torch.float32, torch.bfloat16
CHOICES = [  # device, dtype, queries, grouped, softcapped, needs gradients: fused, repeats keys
    ("cpu", FP32, FEW, False, False, True, True, False),
    ("cpu", FP32, FEW, True, False, True, True, False),
    ("cpu", FP32, MANY, True, True, False, False, True),
    ("cpu", BF16, FEW, False, False, True, False, False),
    ("cpu", BF16, FEW, True, False, True, False, True),
    ("cpu", BF16, FEW, True, False, False, True, False),
    ("cpu", BF16, MANY, True, False, True, True, False),
    ("cuda", FP32, FEW, False, False, True, True, False),
    ("cuda", FP32, FEW, True, False, True, True, True),
    ("cuda", FP32, MANY, True, False, False, True, True),
    ("cuda", BF16, FEW, True, False, True, True, False),
    ("cuda", BF16, MANY, False, True, True, False, False),
    ("cuda", BF16, MANY, True, True, True, False, True),
]


@pytest.mark.parametrize(
    ("device", "dtype", "n_queries", "grouped", "softcapped", "trained", "fused", "repeats"),
    CHOICES,
)
def test_kernel_of_each_device(
    device, dtype, n_queries, grouped, softcapped, trained, fused, repeats
):
    """On a GPU the wrong one is ten times slower, or does not support the shape."""
    chosen = choose_kernel(
        device,
        dtype,
        n_queries,
        grouped=grouped,
        softcapped=softcapped,
        needs_gradients=trained,
    )
    assert chosen == Kernel(fused, repeats)


TILED = {
    "device_type": "cuda",
    "dtype": torch.bfloat16,
    "head_dim": 64,
    "compiling": True,
    "plain_scores": True,
    "documents": False,
}


@pytest.mark.parametrize(
    ("window", "change", "expected"),
    [
        (Window(9), {}, True),
        (Window(9), {"documents": True}, True),
        (Window(9, n_global=3), {"documents": True}, True),
        (Window(9, dilation=2), {}, True),
        (Window(9, dilation=2), {"documents": True}, False),
        (Window(9, dilation=2, n_global=3), {}, False),
        (Window(9), {"device_type": "cpu"}, False),
        (Window(9), {"compiling": False}, False),
        (Window(9), {"plain_scores": False}, False),
        (Window(9), {"dtype": torch.float32}, True),
        (Window(9), {"dtype": torch.float64}, False),
        (Window(9), {"head_dim": 16}, True),
        (Window(9), {"head_dim": 8}, False),
    ],
    ids=str,
)
def test_flex_attention_only_if_it_computes_the_scores(window, change, expected):
    """Otherwise a GPU drops a bias, computes all T x T scores, or fails."""
    assert can_tile(window, **TILED | change) == expected


def test_muon_iterates_in_bf16_on_gpus_only():
    assert [iteration_precision(device) for device in ("cpu", "cuda")] == ["fp32", "bf16"]
