"""Choose the next token from logits: temperature, then top-k, then top-p, then a random draw.

Legend of shapes: B samples, V vocabulary.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.errors import Problem

MAX_TEMPERATURE = 1e6
MAX_TOP_K = 2**31 - 1


def out_of_range(option: str, value: int, minimum: int, maximum: int) -> list[Problem]:
    """Return the problem of an option whose value is not from `minimum` to `maximum`, if any."""
    if value < minimum:
        return [Problem(option, f"{value}: must be at least {minimum}")]
    if value > maximum:
        return [Problem(option, f"{value}: must be at most {maximum}")]
    return []


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is chosen.

    A temperature of 0 takes the likeliest token. `top_k` None and `top_p` 1 keep every token.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def problems(self) -> list[Problem]:
        """Return the settings that are out of range, by their names on the command line."""
        problems = []
        if not 0 <= self.temperature <= MAX_TEMPERATURE:
            message = f"{self.temperature}: must be 0 (the likeliest token) or positive"
            if self.temperature > 0:
                message = f"{self.temperature}: must be at most {MAX_TEMPERATURE:g}"
            problems.append(Problem("--temperature", message))
        if self.top_k is not None:
            problems += out_of_range("--top-k", self.top_k, 1, MAX_TOP_K)
        if not 0 < self.top_p <= 1:
            message = f"{self.top_p}: must be more than 0 and at most 1"
            problems.append(Problem("--top-p", message))
        return problems


def apply_temperature(logits_BV: Tensor, temperature: float) -> Tensor:
    """Return logits / temperature, shifted so that the largest is 0.

    The shift keeps the division finite for every positive temperature.
    """
    return (logits_BV - logits_BV.amax(-1, keepdim=True)) / temperature


def top_k(logits_BV: Tensor, k: int) -> Tensor:
    """Return the k largest logits, exactly k even with ties; minus infinity elsewhere."""
    kept_BK = logits_BV.topk(min(k, logits_BV.shape[-1]))
    return torch.full_like(logits_BV, -torch.inf).scatter(-1, kept_BK.indices, kept_BK.values)


def top_p(logits_BV: Tensor, p: float) -> Tensor:
    """Return the logits of the nucleus (Holtzman et al. 2020, 3.1); minus infinity elsewhere.

    The nucleus is the smallest set of likeliest tokens whose probabilities sum to at least p. It
    is never empty.
    """
    sorted_BV, order_BV = logits_BV.sort(descending=True, stable=True)
    probability_BV = sorted_BV.softmax(-1)
    dropped_BV = probability_BV.cumsum(-1) - probability_BV >= p  # the tokens before it reach p
    dropped_BV[:, 0] = False
    kept_BV = sorted_BV.masked_fill(dropped_BV, -torch.inf)
    return torch.empty_like(logits_BV).scatter(-1, order_BV, kept_BV)


def filter_logits(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """Return the logits that a token is drawn from, float64; minus infinity for excluded tokens.

    The temperature must be positive.
    """
    logits_BV = apply_temperature(logits_BV.double(), sampling.temperature)
    if sampling.top_k is not None:
        logits_BV = top_k(logits_BV, sampling.top_k)
    if sampling.top_p < 1:
        logits_BV = top_p(logits_BV, sampling.top_p)
    return logits_BV


class Sampler:
    """Maps logits (B, V) to tokens (B,); sample i has its own generator, seeded with (seed, i).

    Takes the largest of logit + Gumbel noise, which draws from the softmax (Maddison et al. 2014,
    2.1). So a logit that is rounded differently, as in a batch of another size, rarely changes the
    token.
    """

    def __init__(self, sampling: Sampling, seed: int, n_samples: int) -> None:
        self._sampling = sampling
        self._generators = [np.random.default_rng((seed, i)) for i in range(n_samples)]

    def __call__(self, logits_BV: Tensor) -> Tensor:
        """Choose the next token of each sample."""
        if self._sampling.temperature == 0:
            return logits_BV.argmax(-1)
        vocab_size = logits_BV.shape[-1]
        uniform_BV = np.stack([generator.random(vocab_size) for generator in self._generators])
        gumbel_BV = -(-torch.from_numpy(uniform_BV).to(logits_BV.device).log()).log()
        return (filter_logits(logits_BV, self._sampling) + gumbel_BV).argmax(-1)
