"""Positional encodings: the papers' formulas, and other implementations."""

import math

import pytest
import torch

from variants import registry
from variants.base import ModelShape

SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=32, seq_len=24, vocab_size=13)
T, C, H, D = SHAPE.seq_len, SHAPE.n_embd, SHAPE.n_head, SHAPE.head_dim
TURNS, EVEN = (
    "rope rotates pairs of dimensions: fraction * head_dim =",
    "must be even, above 0 and at most head_dim",
)
SCALED = "must be above 1 with a scaling, 1 without one"


def make(name, shape=SHAPE, **options):
    cls = registry.load("positional", name)
    return cls(shape, cls.Options(**options))


def heads(seed, head_dim=D):
    return torch.randn(2, H, T, head_dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("theta", [10000.0, 100.0])
def test_rope_rotates_each_pair_as_a_complex_number(theta):
    """Another base, pairing or direction is another encoding, which no checkpoint fits."""
    q, k = heads(1), heads(2)
    positions = torch.tensor([*range(T - 1), 5000])
    turned = make("rope", theta=theta).rotate(q, k, positions)
    for x, y in zip((q, k), turned, strict=True):
        for t, position in enumerate(positions.tolist()):
            for i in range(D // 2):
                angle = position * theta ** (-2 * i / D)
                z = torch.complex(x[..., t, i].double(), x[..., t, i + D // 2].double())
                z = z * complex(math.cos(angle), math.sin(angle))
                expected = torch.stack((z.real, z.imag))
                found = torch.stack((y[..., t, i], y[..., t, i + D // 2])).double()
                torch.testing.assert_close(
                    found, expected, atol=1e-5 if position < T else 1e-3, rtol=0
                )


def test_rope_scores_depend_only_on_distance():
    """The property for which it is used (Su et al. 2021, eq. 11)."""
    q, k, rope = heads(1), heads(2), make("rope")
    scores = []
    for shift in (0, 17, 1000):
        turned_q, turned_k = rope.rotate(q, k, torch.arange(T) + shift)
        scores.append(turned_q @ turned_k.mT)
    torch.testing.assert_close(scores[0], scores[1], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(scores[0], scores[2], atol=1e-3, rtol=1e-3)
    assert (scores[0] - q @ k.mT).abs().max() > 0.1


# -- options of rope -------------------------------------------------------------------------------


def turns(rope, head_dim):
    """Return the angle of each pair between positions 0 and 1, and the factor of its length."""
    width = round(rope.options.fraction * head_dim)
    x = torch.zeros(1, 1, 1, head_dim, dtype=torch.float64)
    x[..., : width // 2] = 1.0
    y = rope.rotate(x, x, torch.tensor([1]))[0].flatten()
    cos, sin = y[: width // 2], y[width // 2 : width]
    return torch.atan2(sin, cos), torch.hypot(cos, sin)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("fraction", "n"), [(0.25, 2), (0.5, 4), (0.75, 6), (1.0, 8)])
def test_fraction_rotates_only_the_first_dimensions(fraction, n, interleaved):
    """Wavelengths span the rotated part (GPT-NeoX, GPT-J), not the head."""
    q, k, positions = heads(1), heads(2), torch.arange(T) + 5
    turned = make("rope", fraction=fraction, interleaved=interleaved).rotate(q, k, positions)
    narrow = make("rope", interleaved=interleaved).rotate(q[..., :n], k[..., :n], positions)
    for x, y, part in zip((q, k), turned, narrow, strict=True):
        assert torch.equal(y[..., n:], x[..., n:])
        assert torch.equal(y[..., :n], part)


def test_pairings_are_equal_after_reordering():
    """So what a model can learn is the same, and a checkpoint converts by reordering rows."""
    q, k = heads(1), heads(2)
    order = torch.arange(D).view(2, D // 2).T.flatten()  # 0, D/2, 1, D/2 + 1, ...
    halves = make("rope").rotate(q, k, torch.arange(T))
    pairs = make("rope", interleaved=True).rotate(q[..., order], k[..., order], torch.arange(T))
    for one, other in zip(halves, pairs, strict=True):
        assert torch.equal(one[..., order], other)


LONG = ModelShape(n_layer=1, n_head=2, n_embd=128, seq_len=4096, vocab_size=13)  # heads of 64


@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("factor", [1.5, 2.0, 8.0])
def test_scaled_rope_by_hand(factor, fraction):
    """Linear divides positions; ntk divides only the slowest pair; yarn interpolates by pair."""
    R, head_dim = round(fraction * 64), LONG.head_dim
    plain = 10000.0 ** (-torch.arange(0, R, 2, dtype=torch.float64) / R)
    kinds = {
        kind: turns(make("rope", LONG, fraction=fraction, scaling=kind, factor=factor), head_dim)
        for kind in ("linear", "ntk", "yarn")
    }
    close = {"atol": 1e-7, "rtol": 1e-5}
    torch.testing.assert_close(kinds["linear"][0], plain / factor, **close)
    theta = 10000.0 * factor ** (R / (R - 2))
    torch.testing.assert_close(
        kinds["ntk"][0], theta ** (-torch.arange(0, R, 2, dtype=torch.float64) / R), **close
    )
    torch.testing.assert_close(
        kinds["ntk"][0][[0, -1]], plain[[0, -1]] / torch.tensor([1.0, factor]), **close
    )

    yarn, times = kinds["yarn"][0], LONG.seq_len / factor * plain / (2 * math.pi)
    kept = 1 - (plain / yarn - 1) / (
        factor - 1
    )  # 1 where it turns as before, 0 where it is divided
    assert (kept[times > 45] > 1 - 1e-4).all() and (kept[times < 0.7] < 1e-4).all()
    assert ((kept > -1e-4) & (kept < 1 + 1e-4)).all() and (kept.diff() < 1e-4).all()
    assert ((kept > 0.1) & (kept < 0.9)).any()
    for kind, (_, longer) in kinds.items():
        expected = (
            1 + 0.1 * math.log(factor) if kind == "yarn" else 1.0
        )  # q and k both: scores by its square
        torch.testing.assert_close(longer, torch.full_like(longer, expected), **close)


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({}, {}),
        ({"theta": 500.0}, {"theta": 500.0}),
        ({"fraction": 0.5}, {"dim": 4}),
        ({"scaling": "linear", "factor": 2.0}, {"interpolate_factor": 2.0}),
        ({"scaling": "ntk", "factor": 3.0}, {"theta_rescale_factor": 3.0}),
    ],
)
def test_interleaved_rope_equals_rotary_embedding_torch(options, theirs):
    package = pytest.importorskip("rotary_embedding_torch")
    rotary = package.RotaryEmbedding(**{"dim": D, **theirs})
    q, k = heads(1), heads(2)
    for offset in (0, 100):
        turned = make("rope", interleaved=True, **options).rotate(q, k, torch.arange(T) + offset)
        for x, y in zip((q, k), turned, strict=True):
            expected = rotary.rotate_queries_or_keys(x, offset=offset)
            torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


def llama(shape, scaling, factor, theta=10000.0, fraction=1.0):
    """Return Llama's module, and the configuration that it has."""
    modeling = pytest.importorskip("transformers.models.llama.modeling_llama")
    parameters = {"rope_type": "default" if scaling == "none" else scaling, "rope_theta": theta}
    if scaling != "none":
        parameters |= {"factor": factor, "partial_rotary_factor": fraction}
        parameters["original_max_position_embeddings"] = round(shape.seq_len / factor)
    config = modeling.LlamaConfig(
        hidden_size=shape.n_embd,
        num_attention_heads=shape.n_head,
        max_position_embeddings=shape.seq_len,
        rope_parameters=parameters,
    )
    return modeling, config


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1.0), ("linear", 2.0), ("yarn", 4.0)])
def test_rope_equals_llama(scaling, factor):
    """Pairing, direction, wavelengths and scaling: weights of that family can be used unchanged."""
    modeling, config = llama(SHAPE, scaling, factor)
    q, k, positions = heads(1), heads(2), torch.arange(T) + 3
    cos, sin = modeling.LlamaRotaryEmbedding(config)(q, positions[None])
    turned = make("rope", scaling=scaling, factor=factor).rotate(q, k, positions)
    for mine, right in zip(turned, modeling.apply_rotary_pos_emb(q, k, cos, sin), strict=True):
        torch.testing.assert_close(mine, right, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("theta", [10000.0, 500000.0])
@pytest.mark.parametrize(
    ("seq_len", "factor"), [(24, 1.5), (256, 2.0), (4096, 1.25), (4096, 4.0), (131072, 32.0)]
)
def test_scaled_frequencies_equal_transformers(seq_len, factor, theta, fraction):
    utils = pytest.importorskip("transformers.modeling_rope_utils")
    shape = ModelShape(n_layer=1, n_head=2, n_embd=128, seq_len=seq_len, vocab_size=13)
    theirs = {
        "linear": utils._compute_linear_scaling_rope_parameters,
        "yarn": utils._compute_yarn_parameters,
    }
    for scaling, compute in theirs.items():
        _, config = llama(shape, scaling, factor, theta, fraction)
        frequencies, longer = compute(config, torch.device("cpu"))
        rope = make("rope", shape, theta=theta, fraction=fraction, scaling=scaling, factor=factor)
        mine = turns(rope, shape.head_dim)
        torch.testing.assert_close(mine[0], frequencies.double(), atol=1e-7, rtol=1e-5)
        torch.testing.assert_close(mine[1], torch.full_like(mine[1], longer), atol=1e-6, rtol=0)


def test_linear_scaling_keeps_trained_distances():
    """At `factor` times a distance, scores are those of the unscaled model at that distance."""
    q, k = heads(1), heads(2)
    plain = make("rope").rotate(q, k, torch.arange(T))
    scaled = make("rope", scaling="linear", factor=3.0).rotate(q, k, 3 * torch.arange(T))
    for one, other in zip(plain, scaled, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


# -- biases ----------------------------------------------------------------------------------------

HEADS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 25, 32, 40, 71, 112)


def with_heads(n_head):
    return ModelShape(n_layer=1, n_head=n_head, n_embd=8 * n_head, seq_len=8, vocab_size=13)


def get_slopes(n):
    """Return the slopes of the authors' code, which is recursive if n is not a power of two."""
    if math.log2(n).is_integer():
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start * start**i for i in range(n)]
    closest = 2 ** math.floor(math.log2(n))
    return get_slopes(closest) + get_slopes(2 * closest)[0::2][: n - closest]


def alibi_slopes(n_head):
    """Return the slope of each head per position of distance, from the bias of alibi."""
    bias = make("alibi", with_heads(n_head)).bias(torch.tensor([1]), torch.tensor([0, 1]))
    assert not bias[..., 1].any()
    return -bias[:, 0, 0]


@pytest.mark.parametrize("n_head", HEADS)
def test_alibi_slopes_equal_the_authors(n_head):
    torch.testing.assert_close(
        alibi_slopes(n_head), torch.tensor(get_slopes(n_head)), atol=0, rtol=1e-6
    )


def test_alibi_slopes_by_hand():
    """The paper's example: 8 heads, 1/2 to 1/256 (section 3)."""
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(3).tolist() == [2.0**-4, 2.0**-8, 2.0**-2]


@pytest.mark.parametrize("n_head", HEADS)
def test_alibi_equals_bloom(n_head):
    """BLOOM adds slope * key position, which differs by a constant that softmax ignores."""
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    positions = torch.arange(1001)
    theirs_H1K = bloom.build_alibi_tensor(torch.ones(1, 1001), n_head, torch.float32)
    bias_HQK = make("alibi", with_heads(n_head)).bias(positions[[0, 500, 1000]], positions)
    torch.testing.assert_close(
        bias_HQK - bias_HQK[..., :1], theirs_H1K.expand_as(bias_HQK), atol=1e-3, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("n_buckets", "max_distance"), [(2, 2), (8, 20), (32, 128), (33, 100), (32, 1000), (64, 256)]
)
def test_t5_buckets_equal_transformers(n_buckets, max_distance):
    """One bucket off and a T5 table would say something else of every distance."""
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    part = make("t5", n_buckets=n_buckets, max_distance=max_distance)
    torch.nn.init.normal_(part.table.weight, generator=torch.Generator().manual_seed(1))
    q, k = torch.tensor([0, 5, 700, 1000]), torch.arange(1001)
    buckets = t5.T5Attention._relative_position_bucket(
        k - q[:, None], bidirectional=False, num_buckets=n_buckets, max_distance=max_distance
    )
    bias_HQK = part.bias(q, k)
    for h in range(H):
        assert torch.equal(bias_HQK[h], part.table.weight[:, h][buckets])
    assert buckets[-1].unique().tolist() == list(range(n_buckets)) or max_distance < 2 * n_buckets


def test_t5_buckets_by_hand():
    """32 buckets up to 128: 16 of one distance each, 16 that widen logarithmically."""
    part = make("t5")
    assert part.table.weight.shape == (32, H)
    distances = torch.tensor([0, 1, 15, 16, 17, 18, 19, 20, 21, 112, 113, 127, 128, 1000, 100_000])
    expected = [0, 1, 15, 16, 16, 16, 17, 17, 18, 30, 31, 31, 31, 31, 31]
    assert part.bucket(distances).tolist() == expected


# -- other encodings -------------------------------------------------------------------------------


def test_sinusoidal_equals_the_formula():
    x = torch.randn(2, T, C, generator=torch.Generator().manual_seed(3))
    encoding = make("sinusoidal", scale=0.5, theta=1000.0).embed(x, torch.arange(T)) - x
    for t in range(T):
        for i in range(C // 2):
            angle = t / 1000.0 ** (2 * i / C)
            assert encoding[0, t, 2 * i].item() == pytest.approx(0.5 * math.sin(angle), abs=1e-5)
            assert encoding[1, t, 2 * i + 1].item() == pytest.approx(
                0.5 * math.cos(angle), abs=1e-5
            )


def test_sinusoidal_has_the_scale_of_learned_vectors():
    """With an amplitude of 1 it would dominate the embeddings, and lose for that reason."""
    encoding = make("sinusoidal").embed(torch.zeros(1, T, C), torch.arange(T))
    assert encoding.square().mean().sqrt().item() == pytest.approx(0.02, rel=1e-5)


def test_learned_adds_its_row():
    learned = make("learned")
    x, positions = torch.randn(2, 3, C), torch.tensor([4, 0, 23])
    assert torch.equal(learned.embed(x, positions), x + learned.wpe.weight[[4, 0, 23]])


def test_none_is_the_identity():
    none, x = make("none"), torch.randn(2, T, C)
    assert none.embed(x, torch.arange(T)) is x
    q, k = heads(1), heads(2)
    assert all(a is b for a, b in zip(none.rotate(q, k, torch.arange(T)), (q, k), strict=True))
    assert not list(none.parameters())


@pytest.mark.parametrize(
    ("name", "n_embd", "options", "key", "reason"),
    [
        ("rope", 36, {}, "", f"{TURNS} 1 * 9 = 9 {EVEN}"),
        ("rope", 32, {"fraction": 0.4}, "fraction", f"{TURNS} 0.4 * 8 = 3.2 {EVEN}"),
        ("rope", 32, {"fraction": 0.125}, "fraction", f"{TURNS} 0.125 * 8 = 1 {EVEN}"),
        ("rope", 32, {"fraction": 0.0}, "fraction", f"{TURNS} 0 * 8 = 0 {EVEN}"),
        ("rope", 32, {"fraction": 1.25}, "fraction", f"{TURNS} 1.25 * 8 = 10 {EVEN}"),
        ("rope", 32, {"theta": 0.0}, "theta", "0.0: must be positive"),
        ("rope", 32, {"factor": 2.0}, "factor", f"2: {SCALED}; scaling is none"),
        ("rope", 32, {"scaling": "yarn"}, "factor", f"1: {SCALED}; scaling is yarn"),
        ("rope", 32, {"scaling": "ntk", "factor": 0.5}, "factor", f"0.5: {SCALED}; scaling is ntk"),
        (
            "rope",
            32,
            {"scaling": "ntk", "factor": 2.0, "fraction": 0.25},
            "scaling",
            "ntk needs more than one pair",
        ),
        ("sinusoidal", 33, {}, "", "sinusoidal needs an even n_embd, got 33"),
        ("sinusoidal", 32, {"theta": -1.0}, "theta", "-1.0: must be positive"),
        ("t5", 32, {"n_buckets": 1}, "n_buckets", "1: must be at least 2"),
        ("t5", 32, {"max_distance": 16}, "max_distance", "16: must be more than n_buckets / 2"),
    ],
)
def test_invalid_options_are_rejected_with_the_reason(name, n_embd, options, key, reason):
    cls = registry.load("positional", name)
    shape = ModelShape(n_layer=1, n_head=4, n_embd=n_embd, seq_len=8, vocab_size=13)
    assert cls.check(shape, cls.Options(**options)) == {key: reason}


@pytest.mark.parametrize(
    ("head_dim", "fraction"), [(100, 0.58), (25, 0.56), (64, 0.25), (128, 0.75)]
)
def test_fraction_is_rounded_before_the_parity_check(head_dim, fraction):
    """0.58 * 100 is 57.99999999999999, and "58 must be even" would confuse the user."""
    cls = registry.load("positional", "rope")
    shape = ModelShape(n_layer=1, n_head=2, n_embd=2 * head_dim, seq_len=8, vocab_size=13)
    options = cls.Options(fraction=fraction)
    assert cls.check(shape, options) == {}
    q = torch.ones(1, 2, 1, head_dim)
    changed = cls(shape, options).rotate(q, q, torch.tensor([1]))[0][0, 0, 0] != 1
    assert changed.sum() == round(head_dim * fraction)


def test_yarn_rejects_theta_one():
    """With theta = 1 all pairs have the same wavelength, and a logarithm divides by zero."""
    cls = registry.load("positional", "rope")
    assert cls.check(SHAPE, cls.Options(theta=1.0)) == {}
    assert cls.check(SHAPE, cls.Options(theta=1.0, scaling="yarn", factor=2.0)).keys() == {"theta"}
