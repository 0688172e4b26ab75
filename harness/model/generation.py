"""What a model's context allows of a request, and the decoding itself: the prompt in one pass, then token by token.

Legend of shapes: B samples, T positions, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.errors import Problem, UserError
from harness.model.gpt import GPT
from variants.base import Cache


@dataclass(frozen=True)
class Plan:
    """The part of the prompt that is used, how many tokens follow it, and how many positions a cache has room for.

    `cut` says why it is not the whole prompt, `stop` why fewer tokens follow than were asked for.
    """

    prompt: Sequence[int]
    n_new: int
    n_cached: int
    cut: str | None = None
    stop: str | None = None


def plan(
    prompt: Sequence[int], length: int, seq_len: int, extrapolates: bool, positional: str
) -> Plan:
    """Fit a prompt and `length` more tokens into a context of `seq_len` positions.

    Where the positional encoding `extrapolates`, the context slides on and always holds the last `seq_len` positions. Where
    it does not, the token after the last position is the last one: it needs no position of its own.

    Raises:
        UserError: the prompt alone is longer than a context that cannot slide.
    """
    n_prompt, n_cached = len(prompt), min(seq_len, len(prompt) + length)
    if extrapolates:
        cut = f"of the prompt's {n_prompt} tokens, the last {seq_len} are used: so long is the context"
        return Plan(prompt[-seq_len:], length, n_cached, cut if n_prompt > seq_len else None)
    if n_prompt > seq_len:
        message = f"{n_prompt} tokens, but the model's context, with {positional} positions, ends after {seq_len}"
        raise UserError([Problem("--prompt", message)])
    n_new = min(length, seq_len - n_prompt + 1)
    stop = (
        f"stopped after {n_new} of {length} tokens: the context of {seq_len} positions is full, and {positional} "
        f"positions have none for the next one; a relative encoding would slide on"
    )
    return Plan(prompt, n_new, n_cached, stop=stop if n_new < length else None)


@torch.no_grad()  # not inference_mode: in it, autocast casts all weights anew for each token
def decode(
    model: GPT,
    prompt_BT: Tensor,
    n_new: int,
    caches: Sequence[Cache],
    draw: Callable[[Tensor], Tensor],
) -> Iterator[list[int]]:
    """Yield the next token of each sample, (B,), `n_new` times; `draw` maps logits (B, V) to it, the caches are empty.

    The last token is not fed back.
    """
    tokens_BT = prompt_BT
    for _ in range(n_new):
        tokens_B = draw(model.next_logits(tokens_BT, caches))
        yield tokens_B.tolist()
        tokens_BT = tokens_B[:, None]
