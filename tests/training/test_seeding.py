"""If these failed, dropout would drop the same units in every step, or resuming would change it."""

import pytest
import torch

from harness.training.seeding import seed_step


def mask(seed: int, step: int, rank: int) -> torch.Tensor:
    """Return which of 256 units dropout keeps."""
    seed_step(seed, step, rank)
    return torch.nn.functional.dropout(torch.ones(256), p=0.5) > 0


def test_dropout_is_a_function_of_seed_step_and_rank():
    assert torch.equal(mask(3, 5, 1), mask(3, 5, 1))


@pytest.mark.parametrize("other", [(4, 5, 1), (3, 6, 1), (3, 5, 0)], ids=["seed", "step", "rank"])
def test_dropout_differs_between_seeds_steps_and_ranks(other):
    assert not torch.equal(mask(3, 5, 1), mask(*other))
