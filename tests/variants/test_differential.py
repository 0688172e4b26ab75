"""Differential attention: the paper's formula, with mha's projections and cache."""

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from harness.model.initialization import init_parameters
from harness.probes.first_step import CPU_KERNELS
from variants import registry
from variants.base import ModelShape, Positional

SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=32, seq_len=24, vocab_size=13)
T, C, H, D = SHAPE.seq_len, SHAPE.n_embd, SHAPE.n_head, SHAPE.head_dim
POSITIONS = torch.arange(T)
CPU = torch.device("cpu")


def make(name="differential", shape=SHAPE, layer=0, **options):
    cls = registry.load("attention", name)
    return randomised(cls(shape, cls.Options(**options), layer))


def position(name, shape=SHAPE, **options):
    cls = registry.load("positional", name)
    return randomised(cls(shape, cls.Options(**options)))


def randomised(module):
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return module


def inputs(n_batch=2, shape=SHAPE):
    return torch.randn(
        n_batch, shape.seq_len, shape.n_embd, generator=torch.Generator().manual_seed(2)
    )


def turned(x_TR):
    """Turn pair (i, i + R/2) of position t by t * 10000^(-2i/R), as a complex number."""
    half = x_TR.shape[-1] // 2
    frequency = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(len(x_TR), dtype=torch.float64)[:, None] * frequency
    z = torch.complex(x_TR[:, :half], x_TR[:, half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((z.real, z.imag), dim=-1)


def same(x_TR):
    return x_TR


def normed(x, gain):
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain


def formula(p, number, options, x_BTC, rotate, bias_HTT):
    """Equations 1 to 3 of Ye et al. 2024 in layer `number` = 1, 2, ..., with whole maps."""
    d, later = D // 2, torch.ones(x_BTC.shape[1], x_BTC.shape[1]).triu(1).bool()
    lambda_init = 0.8 - 0.6 * math.exp(-0.3 * (number - 1))
    lam = (
        torch.exp(p["lambda_q1"] @ p["lambda_k1"])
        - torch.exp(p["lambda_q2"] @ p["lambda_k2"])
        + lambda_init
    )
    W, b = p["c_attn.weight"].view(3, H, D, C), p["c_attn.bias"].view(3, H, D)
    rows = []
    for X in x_BTC:
        heads = []
        for i in range(H):
            Q, K, V = (X @ W[n, i].T + b[n, i] for n in range(3))
            if options.get("qk_norm"):
                Q, K = normed(Q, p["q_norm.weight"]), normed(K, p["k_norm.weight"])
            maps = []
            for half in (slice(None, d), slice(d, None)):
                scores = rotate(Q[:, half]) @ rotate(K[:, half]).T / math.sqrt(d)
                if cap := options.get("logit_softcap"):
                    scores = cap * torch.tanh(scores / cap)
                maps.append((scores + bias_HTT[i]).masked_fill(later, -torch.inf).softmax(-1))
            head = (maps[0] - lam * maps[1]) @ V
            heads.append((1 - lambda_init) * normed(head, p["gain"]))
        rows.append(torch.cat(heads, dim=-1) @ p["c_proj.weight"].T + p["c_proj.bias"])
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("layer", "options"),
    [(0, {}), (1, {}), (11, {}), (1, {"qk_norm": True}), (0, {"logit_softcap": 2.0})],
    ids=str,
)
@pytest.mark.parametrize(
    ("name", "rotate"), [("rope", turned), ("none", same), ("alibi", same), ("t5", same)]
)
def test_output_and_gradients_equal_the_formula(layer, options, name, rotate):
    """Halves with the wrong keys, another scale or another lambda would be another attention."""
    attention, positional, x, probe = (
        make(layer=layer, **options),
        position(name),
        inputs(),
        inputs(3)[1:],
    )
    p = {
        key: value.detach().double().requires_grad_() for key, value in attention.named_parameters()
    }
    bias = positional.bias(POSITIONS, POSITIONS)
    bias = torch.zeros(H, T, T, dtype=torch.float64) if bias is None else bias.detach().double()
    x, x64 = x.requires_grad_(), x.detach().double().requires_grad_()

    y, expected = (
        attention(x, POSITIONS, positional),
        formula(p, layer + 1, options, x64, rotate, bias),
    )
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
    found = torch.autograd.grad((y * probe).sum(), [x, *attention.parameters()])
    wanted = torch.autograd.grad((expected * probe).sum(), [x64, *p.values()])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["rope", "t5"])
def test_gradients_equal_finite_differences(name):
    shape = ModelShape(n_layer=1, n_head=2, n_embd=8, seq_len=4, vocab_size=3)
    layer, positional = make(shape=shape).double(), position(name, shape).double()
    x, names = (
        inputs(1, shape).double().requires_grad_(),
        [name for name, _ in layer.named_parameters()],
    )

    def output(x, *parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, given, (x, torch.arange(4), positional))

    assert torch.autograd.gradcheck(output, (x, *layer.parameters()))


@torch.no_grad()
def test_equal_maps_cancel():
    """The one property for which it was made: what a second map attends to as well is noise."""
    layer, x = make(), inputs()
    for values in (layer.c_attn.weight, layer.c_attn.bias):
        q_and_k = values[: 2 * C].unflatten(0, (2 * H, 2, D // 2))
        q_and_k[:, 1] = q_and_k[:, 0]
    apart = layer(x, POSITIONS, position("rope")) - layer.c_proj.bias
    layer.lambda_q1[:], layer.lambda_q2[:] = (
        layer.lambda_k1 * math.log(1.8) / layer.lambda_k1.square().sum(),
        0,
    )
    cancelled = layer(x, POSITIONS, position("rope")) - layer.c_proj.bias  # lambda = 1.8 - 1 + 0.2
    assert cancelled.abs().max() < 1e-3
    assert apart.abs().max() > 0.1


@pytest.mark.parametrize(
    ("layer", "value"), [(0, 0.2), (1, 0.8 - 0.6 * math.exp(-0.3)), (100, 0.8)]
)
def test_initial_lambda_grows_with_depth(layer, value):
    assert make(layer=layer).lambda_init == pytest.approx(value, abs=1e-9)


class Recorder(Positional):
    def __init__(self):
        super().__init__(SHAPE, None)
        self.seen = []

    def rotate(self, q_BHTD, k_BGTD, positions_T):
        self.seen += [q_BHTD.shape, k_BGTD.shape]
        return q_BHTD, k_BGTD


def test_each_half_is_rotated_as_a_head():
    """Rotated as one head, the second half would get only the slow frequencies."""
    cls, positional = registry.load("attention", "differential"), Recorder()
    make()(inputs(), POSITIONS, positional)
    width = cls.rotary_dim(SHAPE, cls.Options())
    assert width == D // 2
    assert positional.seen == [(2, H, T, width)] * 4


# -- decoding --------------------------------------------------------------------------------------


def decode(layer, x, positional, prompt, length, dtype=torch.float32):
    cache = layer.cache(len(x), length, CPU, dtype)
    pieces = [x[:, :prompt], *x[:, prompt:].split(1, dim=1)]
    starts = [0, *range(prompt, x.shape[1])]
    out = [
        layer(piece, torch.arange(start, start + piece.shape[1]), positional, cache)
        for start, piece in zip(starts, pieces, strict=True)
    ]
    return torch.cat(out, dim=1)


@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "logit_softcap": 2.0}], ids=str)
@pytest.mark.parametrize("name", ["rope", "none", "alibi", "t5"])
@torch.no_grad()
def test_decoding_equals_the_full_forward_pass(options, name):
    layer, positional, x = make(layer=1, **options), position(name), inputs()
    full = layer(x, POSITIONS, positional)
    for prompt in (1, 5, T - 1):
        torch.testing.assert_close(
            decode(layer, x, positional, prompt, T), full, atol=1e-5, rtol=1e-5
        )


@torch.no_grad()
def test_full_cache_sees_only_the_last_positions():
    layer, positional, x, length = make(), position("rope"), inputs(), 7
    found = decode(layer, x, positional, 4, length)
    for t in range(4, T):
        last = slice(max(0, t + 1 - length), t + 1)
        expected = layer(x[:, last], POSITIONS[last], positional)[:, -1]
        torch.testing.assert_close(found[:, t], expected, atol=1e-5, rtol=1e-5)


def test_cache_is_that_of_multi_head_attention():
    sizes = {
        make(name).cache(3, 100, CPU, torch.float32).nbytes for name in ("differential", "mha")
    }
    assert sizes == {3 * 100 * 2 * C * 4}


@torch.no_grad()
def test_bf16_is_close_to_fp32():
    layer, positional, x = make(), position("rope"), inputs()
    full = layer(x, POSITIONS, positional).double()
    with torch.autocast("cpu", torch.bfloat16):
        whole = layer(x, POSITIONS, positional).double()
        steps = decode(layer, x, positional, 5, T, torch.bfloat16).double()
    assert (whole - full).norm() < 0.03 * full.norm()
    assert (steps - full).norm() < 0.03 * full.norm()


# -- costs, initial values, options ----------------------------------------------------------------


def test_both_maps_use_the_fused_kernel():
    """Whole maps of T x T are what the definition asks for and no long sequence has room for."""
    shape = ModelShape(n_layer=1, n_head=4, n_embd=32, seq_len=512, vocab_size=13)
    layer, x = make(shape=shape), inputs(1, shape).requires_grad_()
    counter, held = FlopCounterMode(display=False, custom_mapping=CPU_KERNELS), []
    with (
        counter,
        torch.autograd.graph.saved_tensors_hooks(
            lambda t: held.append(t.numel()) or t, lambda t: t
        ),
    ):
        layer(x, torch.arange(512), position("rope", shape)).sum().backward()
    kernels = sum(
        n for op, n in counter.get_flop_counts()["Global"].items() if "attention" in str(op)
    )
    assert (
        kernels == 2 * 14 * C * 512**2
    )  # of each map 4 C forward and 10 C backward, for all pairs
    assert max(held) < 512**2


def test_flops_and_parameters_match_multi_head_attention():
    """Equal parameters and FLOPs are what makes the comparison with it a fair one."""
    layer, mha = make(), make("mha")
    assert (
        layer.flops_per_token(24)
        == mha.flops_per_token(24)
        == 2 * (96 * 32 + 32 * 32) + 4 * 32 * 12.5
    )
    n, n_mha = (sum(p.numel() for p in module.parameters()) for module in (layer, mha))
    assert n - n_mha == 4 * (D // 2) + D


def test_projections_start_as_in_multi_head_attention():
    layer, mha = make(), make("mha")
    for module in (layer, mha):
        init_parameters(nn.ModuleDict({"attn": module}), seed=3)
    for name, values in mha.named_parameters():
        assert torch.equal(layer.get_parameter(name), values), name
    vectors = torch.stack(
        [layer.get_parameter(f"lambda_{name}") for name in ("q1", "k1", "q2", "k2")]
    )
    assert 0.05 < vectors.std() < 0.15 and len(vectors.unique()) == vectors.numel()
    assert torch.equal(layer.gain, torch.ones(D))


@pytest.mark.parametrize(
    ("n_embd", "options", "problems"),
    [
        (32, {}, {}),
        (24, {}, {}),
        (36, {}, {"": "differential attention halves each head: head_dim = 9 must be even"}),
        (32, {"logit_softcap": -1.0}, {"logit_softcap": "-1.0: must be positive, or 0 for none"}),
    ],
)
def test_invalid_options_are_rejected_with_the_reason(n_embd, options, problems):
    cls = registry.load("attention", "differential")
    shape = ModelShape(n_layer=1, n_head=4, n_embd=n_embd, seq_len=8, vocab_size=13)
    assert cls.check(shape, cls.Options(**options)) == problems


def test_rope_rejects_halves_of_odd_width():
    """Heads of 6 are even, and their halves cannot turn in pairs."""
    cls, rope = registry.load("attention", "differential"), registry.load("positional", "rope")
    shape = ModelShape(n_layer=1, n_head=4, n_embd=24, seq_len=8, vocab_size=13)
    assert rope.check(shape, rope.Options()) == {}
    assert (
        "= 1 * 3 = 3 must be even"
        in rope.check_rotary(cls.rotary_dim(shape, cls.Options()), rope.Options())[""]
    )


# -- conversion ------------------------------------------------------------------------------------


def tensors(layer):
    return dict(layer.named_parameters())


@pytest.mark.parametrize(
    ("name", "options"), [("mha", {}), ("gqa", {"n_kv_head": 2}), ("sliding_window", {"window": 5})]
)
def test_projections_trained_for_one_map_are_rejected(name, options):
    """They have the very same names and shapes, and halved they mean nothing."""
    layer, other = make(), make(name, **options)
    with pytest.raises(
        ValueError, match="lambda_q1: missing there, and no conversion to differential attention"
    ):
        layer.load_from(tensors(other), tensors(layer))


def test_same_attention_is_loaded_completely():
    layer, other = make(), make()
    adopted = layer.load_from(tensors(other), tensors(layer))
    assert {name: a.origin for name, a in adopted.items()} == dict.fromkeys(
        tensors(layer), "loaded"
    )
