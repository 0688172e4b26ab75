"""Decode from a model: one pass over the prompt, then token by token with the KV cache.

Legend of shapes: B samples, T positions, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.errors import Problem, UserError
from harness.model.decoder import Decoder
from harness.model.gpt import GPT
from variants.base import Cache


@dataclass(frozen=True)
class GenerationPlan:
    """The tokens of the prompt that are used, the number of new tokens, and the cache's length.

    `truncation_note` says why the prompt is cut, `stop_note` why there are fewer new tokens than
    requested.
    """

    prompt: Sequence[int]
    n_new: int
    n_cached: int
    truncation_note: str | None = None
    stop_note: str | None = None


def plan_generation(
    prompt: Sequence[int], length: int, seq_len: int, extrapolates: bool, positional: str
) -> GenerationPlan:
    """Fit a prompt and `length` new tokens into a context of `seq_len` positions.

    If the positional encoding `extrapolates`, the context slides: it holds the last `seq_len`
    positions. If not, generation ends when the context is full. The token after the last position
    is still generated, since it needs no position of its own.

    Raises:
        UserError: the prompt is longer than a context that cannot slide.
    """
    n_prompt = len(prompt)
    n_cached = min(seq_len, n_prompt + length)
    if extrapolates:
        note = None
        if n_prompt > seq_len:
            note = f"the prompt has {n_prompt} tokens; only the last {seq_len} fit the context"
        return GenerationPlan(prompt[-seq_len:], length, n_cached, truncation_note=note)
    if n_prompt > seq_len:
        message = f"{n_prompt} tokens, but the context has {seq_len} {positional} positions"
        raise UserError([Problem("--prompt", message)])
    n_new = min(length, seq_len - n_prompt + 1)
    note = None
    if n_new < length:
        note = (
            f"stopped after {n_new} of {length} tokens: the context of {seq_len} {positional} "
            f"positions is full; a relative positional encoding would slide"
        )
    return GenerationPlan(prompt, n_new, n_cached, stop_note=note)


@torch.no_grad()  # not inference_mode: autocast would cast all weights again for each token
def decode(
    model: GPT,
    prompt_BT: Tensor,
    n_new: int,
    caches: Sequence[Cache],
    choose: Callable[[Tensor], Tensor],
) -> Iterator[list[int]]:
    """Yield the next token of each sample, (B,), `n_new` times.

    `choose` maps logits (B, V) to tokens (B,). The caches must be empty. The last token is not fed
    back.
    """
    decoder = Decoder(model, caches, n_new - 1)
    tokens_BT = prompt_BT
    for _ in range(n_new):
        tokens_B = choose(decoder(tokens_BT))
        yield tokens_B.tolist()
        tokens_BT = tokens_B[:, None]
