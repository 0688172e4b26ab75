"""From logits to the next token: temperature, then top-k, then top-p, then a draw; or the likeliest.

Legend of shapes: B samples, V vocabulary.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.errors import Problem


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is chosen: temperature 0 takes the likeliest, `top_k` None and `top_p` 1 leave all to choose from."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def problems(self) -> list[Problem]:
        """Return what is out of its range, by the command line's names."""
        found = []
        if not 0 <= self.temperature < float("inf"):
            found.append(
                Problem(
                    "--temperature",
                    f"{self.temperature}: must be 0 (the likeliest token) or positive",
                )
            )
        if self.top_k is not None and self.top_k < 1:
            found.append(Problem("--top-k", f"{self.top_k}: must be at least 1"))
        if not 0 < self.top_p <= 1:
            found.append(Problem("--top-p", f"{self.top_p}: must be more than 0 and at most 1"))
        return found


def heated(logits_BV: Tensor, temperature: float) -> Tensor:
    """Return logits / temperature, shifted so that the largest is 0 and no temperature is too small to divide by."""
    return (logits_BV - logits_BV.amax(-1, keepdim=True)) / temperature


def top_k(logits_BV: Tensor, k: int) -> Tensor:
    """Return the k largest logits, also among equals, and minus infinity in all other places."""
    kept_BK = logits_BV.topk(min(k, logits_BV.shape[-1]))
    return torch.full_like(logits_BV, -torch.inf).scatter(-1, kept_BK.indices, kept_BK.values)


def top_p(logits_BV: Tensor, p: float) -> Tensor:
    """Return the nucleus (Holtzman et al. 2020, 3.1), minus infinity elsewhere.

    It is the smallest set of likeliest tokens whose probabilities sum to p or more, and never empty.
    """
    falling_BV, order_BV = logits_BV.sort(descending=True, stable=True)
    probability_BV = falling_BV.softmax(-1)
    dropped_BV = probability_BV.cumsum(-1) - probability_BV >= p  # those before it reach p already
    dropped_BV[:, 0] = False
    return torch.empty_like(logits_BV).scatter(
        -1, order_BV, falling_BV.masked_fill(dropped_BV, -torch.inf)
    )


def filtered(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """Return the logits of what is drawn from at a positive temperature, float64, minus infinity for what is not."""
    logits_BV = heated(logits_BV.double(), sampling.temperature)
    if sampling.top_k is not None:
        logits_BV = top_k(logits_BV, sampling.top_k)
    return top_p(logits_BV, sampling.top_p) if sampling.top_p < 1 else logits_BV


class Draw:
    """Maps logits (B, V) to tokens (B,); sample i has a generator of its own, seeded from (seed, i).

    It takes the largest of logit + Gumbel noise, which is a draw from the softmax (Maddison et al. 2014, 2.1). So a
    logit that is rounded otherwise, as it is in a batch of another size, hardly ever changes the token.
    """

    def __init__(self, sampling: Sampling, seed: int, n_samples: int) -> None:
        self._sampling = sampling
        self._generators = [np.random.default_rng((seed, i)) for i in range(n_samples)]

    def __call__(self, logits_BV: Tensor) -> Tensor:
        """Choose the next token of each sample."""
        if self._sampling.temperature == 0:
            return logits_BV.argmax(-1)
        uniform_BV = np.stack(
            [generator.random(logits_BV.shape[-1]) for generator in self._generators]
        )
        gumbel_BV = -(-torch.from_numpy(uniform_BV).to(logits_BV.device).log()).log()
        return (filtered(logits_BV, self._sampling) + gumbel_BV).argmax(-1)
