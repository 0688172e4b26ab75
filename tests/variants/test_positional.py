"""Positional encodings against their papers' formulas, written a second time."""

import math

import pytest
import torch

from variants import catalogue
from variants.api import Shape

SHAPE = Shape(n_layer=2, n_head=4, n_embd=32, seq_len=24, vocab_size=13)
T, C, H, D = SHAPE.seq_len, SHAPE.n_embd, SHAPE.n_head, SHAPE.head_dim


def make(name, **options):
    cls = catalogue.load("positional", name)
    return cls(SHAPE, cls.Options(**options))


def heads(seed):
    return torch.randn(2, H, T, D, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("theta", [10000.0, 100.0])
def test_rope_turns_each_pair_as_a_complex_number(theta):
    """Another base, pairing or direction is another encoding, and no checkpoint of the field fits it."""
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
                torch.testing.assert_close(found, expected, atol=1e-5 if position < T else 1e-3, rtol=0)


def test_rope_makes_scores_depend_on_distance_alone():
    """The one property for which it is chosen (Su et al. 2021, eq. 11)."""
    q, k, rope = heads(1), heads(2), make("rope")
    scores = []
    for shift in (0, 17, 1000):
        turned_q, turned_k = rope.rotate(q, k, torch.arange(T) + shift)
        scores.append(turned_q @ turned_k.mT)
    torch.testing.assert_close(scores[0], scores[1], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(scores[0], scores[2], atol=1e-3, rtol=1e-3)
    assert (scores[0] - q @ k.mT).abs().max() > 0.1


def test_sinusoidal_is_the_formula_of_the_paper():
    x = torch.randn(2, T, C, generator=torch.Generator().manual_seed(3))
    encoding = make("sinusoidal", scale=0.5, theta=1000.0).embed(x, torch.arange(T)) - x
    for t in range(T):
        for i in range(C // 2):
            angle = t / 1000.0 ** (2 * i / C)
            assert encoding[0, t, 2 * i].item() == pytest.approx(0.5 * math.sin(angle), abs=1e-5)
            assert encoding[1, t, 2 * i + 1].item() == pytest.approx(0.5 * math.cos(angle), abs=1e-5)


def test_sinusoidal_starts_as_large_as_learned_vectors():
    """At an amplitude of 1 it would drown the token embeddings, and lose against learned for no good reason."""
    encoding = make("sinusoidal").embed(torch.zeros(1, T, C), torch.arange(T))
    assert encoding.square().mean().sqrt().item() == pytest.approx(0.02, rel=1e-5)


def test_learned_adds_its_row():
    learned = make("learned")
    x, positions = torch.randn(2, 3, C), torch.tensor([4, 0, 23])
    assert torch.equal(learned.embed(x, positions), x + learned.wpe.weight[[4, 0, 23]])


def test_none_does_nothing():
    none, x = make("none"), torch.randn(2, T, C)
    assert none.embed(x, torch.arange(T)) is x
    q, k = heads(1), heads(2)
    assert all(a is b for a, b in zip(none.rotate(q, k, torch.arange(T)), (q, k), strict=True))
    assert not list(none.parameters())


@pytest.mark.parametrize(
    ("name", "n_embd", "options", "key", "reason"),
    [
        (
            "rope",
            36,
            {},
            "",
            "rope turns pairs of dimensions: fraction * head_dim = 1 * 9 = 9 must be even, above 0 and at most head_dim",
        ),
        ("rope", 32, {"theta": 0.0}, "theta", "0.0: must be positive"),
        ("sinusoidal", 33, {}, "", "sinusoidal needs an even n_embd, got 33"),
        ("sinusoidal", 32, {"theta": -1.0}, "theta", "-1.0: must be positive"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(name, n_embd, options, key, reason):
    cls = catalogue.load("positional", name)
    shape = Shape(n_layer=1, n_head=4, n_embd=n_embd, seq_len=8, vocab_size=13)
    assert cls.check(shape, cls.Options(**options)) == {key: reason}
