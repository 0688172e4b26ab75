"""A filter that keeps one token too many or too few still generates text, but a wrong one."""

import math

import pytest
import torch

from harness.sampling.sampler import (
    Sampler,
    Sampling,
    apply_temperature,
    filter_logits,
    top_k,
    top_p,
)

NO = -math.inf


def logits(*probabilities):
    return torch.tensor([probabilities], dtype=torch.float64).log()


def kept(logits_BV):
    return [row.isfinite().nonzero().flatten().tolist() for row in logits_BV]


def drawn(logits_1V, sampling, seed=0, n_samples=4000):
    return Sampler(sampling, seed, n_samples)(logits_1V.expand(n_samples, -1))


def test_temperature_divides_without_overflow():
    assert apply_temperature(torch.tensor([[4.0, 2.0, 0.0]]), 2.0).tolist() == [[0, -1, -2]]
    assert apply_temperature(torch.tensor([[4.0, 2.0, 0.0]]), 0.5).tolist() == [[0, -4, -8]]
    assert apply_temperature(torch.tensor([[4.0, 2.0, 4.0]]).double(), 5e-324).tolist() == [
        [0, NO, 0]
    ]


def test_top_k_keeps_exactly_the_k_largest():
    logits_BV = torch.tensor([[1.0, 3.0, 2.0, 0.0], [9.0, 6.0, 7.0, 8.0]])
    assert top_k(logits_BV, 2).tolist() == [[NO, 3, 2, NO], [9, NO, NO, 8]]
    assert torch.equal(top_k(logits_BV, 4), logits_BV) and torch.equal(
        top_k(logits_BV, 1000), logits_BV
    )
    assert [len(row) for row in kept(top_k(torch.zeros(1, 5), 2))] == [
        2
    ]  # ties, which are frequent in bf16


@pytest.mark.parametrize(
    ("p", "tokens"),
    [
        (0.0, [1]),
        (0.3, [1]),
        (0.49, [1]),
        (0.51, [1, 2]),
        (0.74, [1, 2]),
        (0.76, [1, 2, 3]),
        (0.97, [0, 1, 2, 3]),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(p, tokens):
    logits_BV = logits(0.1, 0.5, 0.25, 0.15)
    result = top_p(logits_BV, p)
    assert kept(result) == [tokens]
    assert torch.equal(result[0, tokens], logits_BV[0, tokens])


def test_top_p_stops_at_a_mass_of_exactly_p():
    assert kept(top_p(torch.zeros(1, 4), 0.5)) == [[0, 1]]
    assert kept(top_p(torch.zeros(1, 4), 0.75)) == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        ({"top_p": 0.5}, [0, 1]),  # 0.4 does not reach it
        ({"top_k": 2, "top_p": 0.5}, [0]),  # of two, the first has 4 / 7
        ({"temperature": 0.5, "top_p": 0.5}, [0]),  # 16 / 30
        (
            {"temperature": 2.0, "top_k": 3, "top_p": 0.73},
            [0, 1, 2],
        ),  # the first two of three have 0.725
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.73}, [0, 1]),  # 7 / 9
        ({"top_k": 3}, [0, 1, 2]),
        ({}, [0, 1, 2, 3]),
    ],
)
def test_temperature_then_top_k_then_top_p(settings, tokens):
    assert kept(filter_logits(logits(0.4, 0.3, 0.2, 0.1), Sampling(**settings))) == [tokens]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.1, 0.4, 0.2, 0.3]),
        ({"temperature": 0.5}, [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.8}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"temperature": 0.0}, [0, 1, 0, 0]),
        ({"temperature": 1e-300}, [0, 1, 0, 0]),
    ],
)
def test_tokens_are_drawn_with_their_probabilities(settings, expected):
    n = 4000
    counts = drawn(logits(0.1, 0.4, 0.2, 0.3).float(), Sampling(**settings), n_samples=n).bincount(
        minlength=4
    )
    for count, p in zip(counts.tolist(), expected, strict=True):
        assert abs(count - n * p) <= 4 * math.sqrt(n * p * (1 - p))


def test_draws_are_a_function_of_the_seed():
    flat = torch.zeros(1, 1000)
    first = drawn(flat, Sampling(), seed=3, n_samples=8)
    assert torch.equal(drawn(flat, Sampling(), seed=3, n_samples=8), first)
    assert not (drawn(flat, Sampling(), seed=4, n_samples=8) == first).any()
    assert len(set(first.tolist())) == 8  # the samples differ from each other
    assert torch.equal(
        drawn(flat, Sampling(), seed=3, n_samples=3), first[:3]
    )  # but not with their number


def test_successive_draws_differ():
    sampler = Sampler(Sampling(), 0, 1)
    assert len({sampler(torch.zeros(1, 1000)).item() for _ in range(8)}) == 8


def test_rounding_rarely_changes_a_draw():
    """Otherwise a seed would give another text in a batch of another size, by its rounding."""
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(1, 1000, generator=generator)
    rounded = exact + 1e-6 * torch.randn(1, 1000, generator=generator)
    assert torch.equal(
        drawn(exact, Sampling(), n_samples=1000), drawn(rounded, Sampling(), n_samples=1000)
    )
