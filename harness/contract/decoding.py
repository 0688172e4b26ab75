"""Decoding with a KV cache gives the logits of the full forward pass."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from harness.contract.architecture import outputs, tokens_of
from harness.contract.violation import Violation
from harness.model.decoder import Step, StepGraph
from harness.model.gpt import GPT

CLOSE = 1e-3  # of the largest logit
STEPS = 3  # tokens that are decoded after all prompts but the shortest


def decodes(model: GPT) -> bool:
    """Return whether every attention defines a KV cache."""
    try:
        model.caches(1, 2, torch.float32)
    except NotImplementedError:
        return False
    return True


class Uncaptured:
    """In the place of a CUDA graph, runs the step itself each time."""

    def warm_up(self, step: Step) -> None:
        """Do nothing."""

    def capture(self, step: Step) -> Step:
        """Return the step."""
        return step


@torch.no_grad()
def cache_disagrees(model: GPT, prompts: Sequence[int]) -> list[Violation]:
    """Decode after prompts of several lengths; report the first position that differs.

    After one of them, decode also as a CUDA graph does, if all attentions support it.
    """
    length = model.shape.seq_len
    tokens = tokens_of(2, length)
    full = outputs(model, tokens)
    bound = CLOSE * full.abs().max()
    for prompt, static in _ways(model, prompts):
        stop = length if prompt == 1 and length <= 32 else min(length, prompt + STEPS)
        decoded = decode(model, tokens[:, :stop], prompt, length, static=static)
        difference = (decoded - full[:, prompt - 1 : stop]).abs().amax(dim=(0, 2))
        wrong = (~(difference <= bound)).nonzero()
        if len(wrong):
            position = prompt - 1 + int(wrong[0])
            message = (
                f"after a prompt of {prompt} tokens, the logits at position {position} differ "
                f"from the full forward pass by {float(difference[wrong[0]]):.2g}"
            )
            if static:
                message += (
                    ", with a static cache only; use the bias of the cache, or set "
                    "supports_static_cache = False"
                )
            return [Violation("cache", message)]
    return []


def _ways(model: GPT, prompts: Sequence[int]) -> Iterator[tuple[int, bool]]:
    """Yield lengths of prompts, and whether to decode after them with a static cache."""
    for prompt in prompts:
        yield prompt, False
    if model.supports_static_cache and prompts:  # of one position, there are none
        yield prompts[len(prompts) // 2], True


def decode(
    model: GPT,
    tokens: Tensor,
    prompt: int,
    length: int,
    dtype: torch.dtype = torch.float32,
    static: bool = False,
) -> Tensor:
    """Return the logits of the cache after the prompt and after each further token, (B, n, V)."""
    model.eval()
    caches = model.caches(len(tokens), length, dtype)
    logits = [model.next_logits(tokens[:, :prompt], caches)]
    step = StepGraph(model, caches, len(tokens), Uncaptured()) if static else None
    for token in tokens[:, prompt:].split(1, dim=1):
        logits.append(step(token) if step else model.next_logits(token, caches))
    return torch.stack(logits, dim=1)


def prompts_of(length: int, around: Sequence[int] = ()) -> list[int]:
    """Return the lengths of prompts to try: the shortest, the longest, and those next to `around`.

    `around` are the widths of windows: decoding must cross their end.
    """
    candidates = [1, 2, length // 2 + 1, *(n - 1 for n in around), length - 2]
    return sorted({n for n in candidates if 0 < n < length})
