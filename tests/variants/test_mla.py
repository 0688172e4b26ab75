"""Latent attention: the paper's formula, and a cache that holds only latents."""

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from harness.model.initialization import init_parameters
from harness.probes.first_step import CPU_KERNELS
from variants import registry
from variants.base import ModelShape, Positional

SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=32, seq_len=24, vocab_size=13)
T, C, H, D = SHAPE.seq_len, SHAPE.n_embd, SHAPE.n_head, SHAPE.head_dim
POSITIONS = torch.arange(T)
CPU = torch.device("cpu")
OPTIONS = [
    {},
    {"q_rank": 12},
    {"kv_rank": 10, "rope_dim": 2},
    {"kv_rank": 6, "q_rank": 5, "rope_dim": 12},
]


def make(name="mla", shape=SHAPE, **options):
    cls = registry.load("attention", name)
    return randomised(cls(shape, cls.Options(**options), 0))


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


def turned(x_R, t):
    """Turn pair (i, i + R/2) by t * 10000^(-2i/R), as a complex number."""
    half = len(x_R) // 2
    angle = t * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    z = torch.complex(x_R[:half], x_R[half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((z.real, z.imag))


def same(x_R, t):
    return x_R


def normed(x, gain):
    return x / (x.square().mean() + 1e-5).sqrt() * gain


def formula(p, options, x_BTC, rotate, bias_HTT):
    """Equations 9 to 19 of DeepSeek-V2 (with the norms of 3.1.2), by position and head."""
    L, R = options.get("kv_rank", 4 * D), options.get("rope_dim", D // 2)
    down = p["c_attn.weight"]
    W_Q, W_DKV, W_KR = down[: -L - R], down[-L - R : -R], down[-R:]
    if "q_up.weight" in p:
        W_DQ, W_Q = W_Q, p["q_up.weight"]
    W_UQ, W_QR = W_Q[: H * D].view(H, D, -1), W_Q[H * D :].view(H, R, -1)
    W_UK, W_UV = p["kv_up.weight"].view(2, H, D, L)
    rows = []
    for x_TC in x_BTC:
        c_KV = [normed(W_DKV @ h, p["kv_gain"]) for h in x_TC]  # (9)
        k_R = [rotate(W_KR @ h, t) for t, h in enumerate(x_TC)]  # (15)
        c_Q = (
            [normed(W_DQ @ h, p["q_gain"]) for h in x_TC] if "q_up.weight" in p else list(x_TC)
        )  # (12)
        for t in range(len(x_TC)):
            o = []
            for i in range(H):
                q = torch.cat((W_UQ[i] @ c_Q[t], rotate(W_QR[i] @ c_Q[t], t)))  # (13, 14, 16)
                k = [torch.cat((W_UK[i] @ c_KV[j], k_R[j])) for j in range(t + 1)]  # (10, 17)
                scores = (
                    torch.stack([q @ k_j for k_j in k]) / math.sqrt(D + R) + bias_HTT[i, t, : t + 1]
                )
                v = torch.stack([W_UV[i] @ c_KV[j] for j in range(t + 1)])  # (11)
                o.append(scores.softmax(0) @ v)  # (18)
            rows.append(p["c_proj.weight"] @ torch.cat(o) + p["c_proj.bias"])  # (19)
    return torch.stack(rows).view_as(x_BTC)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    ("name", "rotate"), [("rope", turned), ("none", same), ("alibi", same), ("t5", same)]
)
def test_output_and_gradients_equal_the_formula(options, name, rotate):
    """Padded values, masks and the order of blocks must not change the attention."""
    layer, positional, x, probe = (
        make(**options),
        position(name),
        inputs(1)[:, :13],
        inputs(3)[:1, :13],
    )
    p = {key: value.detach().double().requires_grad_() for key, value in layer.named_parameters()}
    bias = positional.bias(POSITIONS, POSITIONS)
    bias = torch.zeros(H, T, T, dtype=torch.float64) if bias is None else bias.detach().double()
    x, x64 = x.requires_grad_(), x.detach().double().requires_grad_()

    y, expected = layer(x, POSITIONS[:13], positional), formula(p, options, x64, rotate, bias)
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
    found = torch.autograd.grad((y * probe).sum(), [x, *layer.parameters()])
    wanted = torch.autograd.grad((expected * probe).sum(), [x64, *p.values()])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-4, rtol=1e-4)


def deepseek(p, x_BTC, R, theta, factor, trained_len):
    """`DeepseekV2Attention` of DeepSeek-V2's modeling_deepseek.py, `mscale` = `mscale_all_dim` = 1.

    Pairs are (i, i + R/2), into which their code reorders its interleaved pairs.
    """

    def mscale(scale, weight):  # yarn_get_mscale
        return 0.1 * weight * math.log(scale) + 1.0

    def correction_dim(n_rotations):  # yarn_find_correction_dim
        length = trained_len / (n_rotations * 2 * math.pi)
        return R * math.log(length) / (2 * math.log(theta))

    low = max(math.floor(correction_dim(32)), 0)
    high = min(math.ceil(correction_dim(1)), R - 1)
    ramp = (torch.arange(R // 2, dtype=torch.float64) - low) / (high - low)
    kept = 1 - ramp.clamp(0, 1)
    extrapolated = theta ** -(torch.arange(0, R, 2, dtype=torch.float64) / R)
    frequencies = extrapolated / factor * (1 - kept) + extrapolated * kept
    angles = torch.outer(torch.arange(x_BTC.shape[1], dtype=torch.float64), frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    rotary_factor = mscale(factor, 1.0) / mscale(factor, 1.0)
    cos, sin = angles.cos() * rotary_factor, angles.sin() * rotary_factor

    def rotate(x):
        half = torch.cat((-x[..., R // 2 :], x[..., : R // 2]), dim=-1)
        return x * cos + half * sin

    def heads(x, width):
        return x.unflatten(-1, (H, width)).transpose(1, 2)

    L = 4 * D
    queries, queries_pe, latent, key_pe = (x_BTC @ p["c_attn.weight"].T).split(
        (H * D, H * R, L, R), dim=-1
    )
    latent = latent / (latent.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p["kv_gain"]
    keys, values = (latent @ p["kv_up.weight"].T).chunk(2, dim=-1)
    query_states = torch.cat((heads(queries, D), rotate(heads(queries_pe, R))), dim=-1)
    rotated = rotate(key_pe[:, None]).expand(-1, H, -1, -1)
    key_states = torch.cat((heads(keys, D), rotated), dim=-1)
    softmax_scale = (D + R) ** -0.5 * mscale(factor, 1.0) * mscale(factor, 1.0)
    scores = query_states @ key_states.mT * softmax_scale
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(later, -torch.inf).softmax(-1)
    out = (weights @ heads(values, D)).transpose(1, 2).flatten(2)
    return out @ p["c_proj.weight"].T + p["c_proj.bias"]


@torch.no_grad()
def test_yarn_sharpens_the_whole_score_as_deepseek():
    """Sharpening only the rotated part weights the two parts of a score otherwise."""
    R, theta, factor = 8, 2.0, 2.0  # pairs are kept, interpolated and divided
    layer = make(rope_dim=R)
    positional = position("rope", scaling="yarn", factor=factor, theta=theta)
    x = inputs()
    p = {name: value.double() for name, value in layer.named_parameters()}
    expected = deepseek(p, x.double(), R, theta, factor, T / factor)
    full = layer(x, POSITIONS, positional)
    torch.testing.assert_close(full.double(), expected, atol=1e-5, rtol=1e-5)
    cached = decode(layer, x, positional, 5, T)
    torch.testing.assert_close(cached.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["rope", "t5"])
def test_gradients_equal_finite_differences(name):
    shape = ModelShape(n_layer=1, n_head=2, n_embd=8, seq_len=4, vocab_size=3)
    layer, positional = (
        make(shape=shape, kv_rank=3, q_rank=5, rope_dim=2).double(),
        position(name, shape).double(),
    )
    x, names = (
        inputs(1, shape).double().requires_grad_(),
        [name for name, _ in layer.named_parameters()],
    )

    def output(x, *parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, given, (x, torch.arange(4), positional))

    assert torch.autograd.gradcheck(output, (x, *layer.parameters()))


def test_all_heads_share_one_rotated_key():
    """With position in no other place, rope's only way in is the decoupled part."""
    layer, x = make(), inputs()
    with_rope, without = (layer(x, POSITIONS, position(name)) for name in ("rope", "none"))
    assert (with_rope - without)[:, 1:].abs().amax() > 0.01
    shifted = layer(x, POSITIONS + 500, position("rope"))
    torch.testing.assert_close(shifted, with_rope, atol=1e-4, rtol=1e-4)


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


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["rope", "none", "alibi", "t5"])
@torch.no_grad()
def test_decoding_equals_the_full_forward_pass(options, name):
    """The matrices absorbed into query and output must be those that make keys and values."""
    layer, positional, x = make(**options), position(name), inputs()
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


@pytest.mark.parametrize(
    ("options", "numbers"), [({}, 32 + 4), ({"q_rank": 12}, 36), ({"kv_rank": 6, "rope_dim": 2}, 8)]
)
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_cache_holds_a_latent_and_one_rotated_key(options, numbers, dtype, size):
    """This is what latents were invented for; multi-head attention keeps 2 C numbers."""
    assert make(**options).cache(3, 100, CPU, dtype).nbytes == 3 * 100 * numbers * size
    assert make("mha").cache(3, 100, CPU, dtype).nbytes == 3 * 100 * 2 * C * size


class LargestTensor(TorchDispatchMode):
    """Notes how many elements the largest new tensor has that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given, made = (
            [t for t in tree_leaves(tree) if isinstance(t, torch.Tensor)]
            for tree in ((args, kwargs), out)
        )
        known = {t.untyped_storage().data_ptr() for t in given}
        self.largest = max(
            self.largest,
            *(t.numel() for t in made if t.untyped_storage().data_ptr() not in known),
            0,
        )
        return out


@pytest.mark.parametrize("name", ["rope", "alibi"])
@torch.no_grad()
def test_decoding_does_not_project_cached_positions(name):
    """Else a step would cost as much memory and time as if the cache held them."""
    layer, positional, length = make(kv_rank=6, rope_dim=2), position(name), 1000
    cache = layer.cache(1, length, CPU, torch.float32)
    layer(torch.randn(1, length - 1, C), torch.arange(length - 1), positional, cache)
    with LargestTensor() as seen:
        layer(torch.randn(1, 1, C), torch.tensor([length - 1]), positional, cache)
    assert seen.largest <= H * length, "a bias or a score for each head at most"


@torch.no_grad()
def test_bf16_decoding_is_close_to_fp32():
    layer, positional, x = make(q_rank=12), position("rope"), inputs()
    full = layer(x, POSITIONS, positional).double()
    with torch.autocast("cpu", torch.bfloat16):
        whole = layer(x, POSITIONS, positional).double()
        steps = decode(layer, x, positional, 5, T, torch.bfloat16).double()
    assert (whole - full).norm() < 0.03 * full.norm()
    assert (steps - full).norm() < 0.03 * full.norm()


# -- costs, initial values, options ----------------------------------------------------------------


def test_training_uses_the_fused_kernel():
    shape = ModelShape(n_layer=1, n_head=4, n_embd=32, seq_len=1024, vocab_size=13)
    layer, x = make(shape=shape), inputs(1, shape).requires_grad_()
    counter, seen = FlopCounterMode(display=False, custom_mapping=CPU_KERNELS), LargestTensor()
    with counter, seen:
        layer(x, torch.arange(1024), position("rope", shape)).sum().backward()
    assert any("attention" in str(op) for op in counter.get_flop_counts()["Global"])
    assert seen.largest <= 4 * H * D * 1024 < 1024**2


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        # c_attn, [q_up,] kv_up, c_proj; L = 32 and R = 4 where not given
        ({}, 32 * (32 + 16 + 32 + 4) + 32 * 64 + 32 * 32),
        ({"q_rank": 12}, 32 * (12 + 32 + 4) + 12 * 48 + 32 * 64 + 32 * 32),
        ({"kv_rank": 6, "rope_dim": 2}, 32 * (32 + 8 + 6 + 2) + 6 * 64 + 32 * 32),
    ],
)
def test_flops_per_token_by_hand(options, weights):
    """2 per weight; for 12.5 visible keys and 4 heads, 2 (D + R) per score and 2 D per value."""
    R = options.get("rope_dim", 4)
    layer = make(**options)
    assert layer.flops_per_token(24) == pytest.approx(
        2 * weights + 12.5 * 4 * (2 * (8 + R) + 2 * 8), rel=1e-12
    )
    assert sum(p.numel() for p in layer.parameters() if p.dim() == 2) == weights


def test_queries_start_as_in_multi_head_attention():
    """Else a difference between the two would in part be one of luck."""
    mla, mha = make(), make("mha")
    for layer in (mla, mha):
        init_parameters(nn.ModuleDict({"attn": layer}), seed=3)
    assert torch.equal(mla.c_attn.weight[:C], mha.c_attn.weight[:C]), "queries"
    assert torch.equal(mla.c_proj.weight, mha.c_proj.weight)
    assert torch.equal(mla.kv_gain, torch.ones(4 * D))
    assert not torch.equal(*mla.kv_up.weight.chunk(2)), "keys and values are drawn each on its own"
    for name in ("c_attn.weight", "kv_up.weight"):
        assert mla.get_parameter(name).std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(
    ("options", "problems"),
    [
        ({"kv_rank": 0}, {"kv_rank": "0: must be at least 1"}),
        ({"q_rank": -1}, {"q_rank": "-1: must be at least 1, or 0 for queries without a latent"}),
        (
            {"rope_dim": 0},
            {"rope_dim": "0: must be even and at least 2 (left out, it is head_dim / 2)"},
        ),
        (
            {"rope_dim": 3},
            {"rope_dim": "3: must be even and at least 2 (left out, it is head_dim / 2)"},
        ),
        ({"rope_dim": 20, "q_rank": 100, "kv_rank": 100}, {}),
    ],
)
def test_invalid_options_are_rejected_with_the_reason(options, problems):
    cls = registry.load("attention", "mla")
    assert cls.check(SHAPE, cls.Options(**options)) == problems


def test_rotary_dim_is_checked_by_the_positional():
    """Rope at the width of a head would turn what is not there."""
    mla, mha = (registry.load("attention", name) for name in ("mla", "mha"))
    assert mla.rotary_dim(SHAPE, mla.Options()) == 4
    assert mla.rotary_dim(SHAPE, mla.Options(rope_dim=12)) == 12
    assert mha.rotary_dim(SHAPE, mha.Options()) == D


class Recorder(Positional):
    def rotate(self, q_BHTD, k_BGTD, positions_T):
        self.seen = q_BHTD.shape, k_BGTD.shape
        return q_BHTD, k_BGTD


def test_rotated_part_has_the_stated_width():
    positional = Recorder(SHAPE, None)
    make(rope_dim=6)(inputs(), POSITIONS, positional)
    assert positional.seen == ((2, H, T, 6), (2, 1, T, 6))


# -- conversion ------------------------------------------------------------------------------------


def tensors(layer):
    return dict(layer.named_parameters())


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        (("mha", {}), "c_attn.bias: only there, and no conversion to latent attention is defined"),
        (("gqa", {"n_kv_head": 2}), "c_attn.bias: only there"),
        (("mla", {"q_rank": 12}), "q_gain: only there"),
        (
            ("mla", {"kv_rank": 6}),
            r"kv_gain: \(6,\) there, \(32,\) here, and no conversion is defined",
        ),
    ],
)
def test_weights_of_another_attention_are_rejected(theirs, reason):
    """A run that claims to start from a checkpoint must not re-initialize its attention."""
    layer, other = make(), make(theirs[0], **theirs[1])
    with pytest.raises(ValueError, match=reason):
        layer.load_from(tensors(other), tensors(layer))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_same_attention_is_loaded_completely(options):
    layer, other = make(**options), make(**options)
    adopted = layer.load_from(tensors(other), tensors(layer))
    assert {name: a.origin for name, a in adopted.items()} == dict.fromkeys(
        tensors(layer), "loaded"
    )
