"""No output depends on a later token or on another sequence, and where it does, which module leaks.

A split s separates the tokens before it from those at s and later. Outputs before a split must not
change if tokens after it change, and must have no gradient with respect to them. Both are tested:
a gradient also shows small effects, a change of tokens also shows paths without a gradient.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.contract.architecture import VOCABULARY, outputs, seeded, tokens_of
from harness.contract.violation import Violation
from harness.model.gpt import GPT
from variants.base import Part
from variants.errors import class_line

ROUNDING = 1e-4  # of the largest output; data-dependent shapes of products change rounding
GRADIENT_ROUNDING = 1e-6  # of the largest gradient of the same sequence
NEAREST = 16  # later tokens that are tried one by one

MAX_CHANGES = 32  # with which the module is located where a leak enters

Trace = dict[str, Tensor]


@dataclass(frozen=True)
class Setting:
    """Length of the sequences and mode in which a model is tested."""

    length: int
    training: bool

    def __str__(self) -> str:
        mode = "training" if self.training else "evaluation"
        return f"sequences of {self.length} tokens, {mode} mode"


def by_change(model: GPT, setting: Setting, splits: Sequence[int]) -> list[Violation]:
    """Change all tokens after each split; report the earliest output before it that changes."""
    if not splits:  # a sequence of one token
        return []
    tokens_1T = tokens_of(1, setting.length)
    affected = _affected(model, tokens_1T, splits, setting)
    if not affected.any():
        return []
    position, row = (affected.T != 0).nonzero()[0].tolist()
    token, alone = _nearest_token(model, tokens_1T, position, splits[row], setting)
    return [_violation(model, tokens_1T, position, token, alone, setting)]


def by_gradient(model: GPT, setting: Setting, splits: Sequence[int]) -> list[Violation]:
    """Report the earliest output that has a gradient with respect to a later token."""
    if not splits:
        return []
    tokens_1T = tokens_of(1, setting.length)
    gradient = _gradients(model, tokens_1T, splits, setting)
    later = torch.arange(setting.length) >= torch.tensor(splits)[:, None]
    bound = GRADIENT_ROUNDING * gradient.amax(dim=1, keepdim=True)
    leaks = ((gradient > bound) & later).any(dim=1).nonzero()
    if not len(leaks):
        return []
    # The outputs before the split are tried one by one.
    split = splits[int(leaks[0])]
    for position in range(split):
        own = _own_gradient(model, tokens_1T, position, setting)
        beyond = (own[position + 1 :] > GRADIENT_ROUNDING * own.max()).nonzero()
        if len(beyond):
            token = position + 1 + int(beyond[0])
            return [_violation(model, tokens_1T, position, token, True, setting)]
    return [_violation(model, tokens_1T, split - 1, split, False, setting)]


def between_sequences(model: GPT, setting: Setting) -> list[Violation]:
    """Change one sequence of a batch; report another one whose outputs change."""
    tokens = tokens_of(3, setting.length)
    changed = tokens.clone()
    changed[1] = (changed[1] + 1) % VOCABULARY
    with torch.no_grad():
        before = outputs(model, tokens, setting.training)
        after = outputs(model, changed, setting.training)
    others = torch.tensor([0, 2])
    difference = (after - before)[others].abs().amax(dim=(1, 2))
    rows = [int(others[i]) for i in (difference > ROUNDING * before.abs().max()).nonzero()[:, 0]]
    if not rows:
        rows = _rows_with_gradient(model, tokens, setting)
    if not rows:
        return []
    where = first_difference(
        model, tokens, changed, lambda x: x[rows[0]], setting.training, batched=True
    )
    message = f"the outputs of sequence {rows[0]} depend on sequence 1 of the batch ({setting})"
    return [Violation("batch", message, where)]


def alone_as_in_batch(model: GPT, length: int) -> list[Violation]:
    """Compare a sequence alone with the same one in a batch, in evaluation mode."""
    tokens = tokens_of(3, length)
    with torch.no_grad():
        together = outputs(model, tokens)
        alone = outputs(model, tokens[:1])
    if (alone[0] - together[0]).abs().max() <= 10 * ROUNDING * together.abs().max():
        return []
    message = f"the outputs of a sequence of {length} tokens depend on the size of the batch"
    return [Violation("batch", message)]


def splits_of(length: int, most: int, around: Sequence[int] = ()) -> list[int]:
    """Return all splits of a length, or `most` of them: next to `around`, the ends and between."""
    if length - 1 <= most:
        return list(range(1, length))
    chosen = [1, length - 1]
    for n in around:
        chosen += [n + 1, n, n + 2]
    chosen += [length // 2 + 1, length // 3, 2 * length // 3 + 1]
    chosen += torch.linspace(1, length - 1, most).long().tolist()
    valid = [split for split in dict.fromkeys(chosen) if 0 < split < length]
    return sorted(valid[:most])


def _affected(model: GPT, tokens_1T: Tensor, splits: Sequence[int], setting: Setting) -> Tensor:
    """Return whether output t changes with the tokens from each split on, (splits, T), t < split.

    In training mode both calls draw the same dropout, because their shapes are equal. In evaluation
    mode one sequence is as good as equal ones.
    """
    starts = torch.tensor(splits)[:, None]
    positions = torch.arange(tokens_1T.shape[1])
    changed = torch.where(positions >= starts, (tokens_1T + 7) % VOCABULARY, tokens_1T)
    unchanged = tokens_1T.repeat(len(splits), 1) if setting.training else tokens_1T
    with torch.no_grad():
        before = outputs(model, unchanged, setting.training)
        after = outputs(model, changed, setting.training)
    difference = (after - before).abs().amax(dim=-1)
    return (difference > ROUNDING * before.abs().max()) & (positions < starts)


def _nearest_token(
    model: GPT, tokens_1T: Tensor, position: int, split: int, setting: Setting
) -> tuple[int, bool]:
    """Return a later token that changes an output, and whether it does so alone."""
    candidates = list(range(position + 1, min(position + 1 + NEAREST, tokens_1T.shape[1])))
    changed = tokens_1T.repeat(len(candidates), 1)
    rows = torch.arange(len(candidates))
    changed[rows, torch.tensor(candidates)] = (changed[rows, torch.tensor(candidates)] + 7) % (
        VOCABULARY
    )
    with torch.no_grad():
        before = outputs(model, tokens_1T.repeat(len(candidates), 1), setting.training)
        after = outputs(model, changed, setting.training)
    difference = (after - before)[:, position].abs().amax(dim=-1)
    alone = (difference > ROUNDING * before.abs().max()).nonzero()
    if len(alone):
        return candidates[int(alone[0])], True
    # Changing all tokens from `low` on affects the output, changing those from `high` on does not.
    low = split
    high = tokens_1T.shape[1]
    while high - low > 1:
        middle = (low + high) // 2
        if _affected(model, tokens_1T, [middle], setting)[0, position]:
            low = middle
        else:
            high = middle
    return low, False


def _gradients(model: GPT, tokens_1T: Tensor, splits: Sequence[int], setting: Setting) -> Tensor:
    """Return the gradients of the outputs before each split by token, (splits, T)."""
    before = torch.arange(tokens_1T.shape[1]) < torch.tensor(splits)[:, None]
    return _token_gradients(model, tokens_1T.repeat(len(splits), 1), before, setting)


def _own_gradient(model: GPT, tokens_1T: Tensor, position: int, setting: Setting) -> Tensor:
    """Return the gradient of one output by token, (T,)."""
    only = torch.arange(tokens_1T.shape[1]) == position
    return _token_gradients(model, tokens_1T, only[None], setting)[0]


def _rows_with_gradient(model: GPT, tokens: Tensor, setting: Setting) -> list[int]:
    """Return the rows other than 1 whose tokens have a gradient from the outputs of row 1."""
    only = (torch.arange(len(tokens)) == 1)[:, None].expand(tokens.shape)
    gradient = _token_gradients(model, tokens, only, setting).amax(dim=1)
    leaks = (gradient > GRADIENT_ROUNDING * gradient.max()).nonzero()[:, 0].tolist()
    return [row for row in leaks if row != 1]


def _token_gradients(model: GPT, tokens: Tensor, weighted: Tensor, setting: Setting) -> Tensor:
    """Return the largest gradient of the weighted outputs with respect to each token, (B, T)."""
    with embedded(model, tokens) as x:
        logits = outputs(model, tokens, setting.training)
    generator = torch.Generator().manual_seed(4)
    weights = torch.randn(logits.shape[1:], generator=generator) * weighted[..., None]
    (gradient,) = torch.autograd.grad((logits * weights).sum(), x, allow_unused=True)
    if gradient is None:
        raise ValueError("no output has a gradient with respect to the token embeddings")
    return gradient.abs().amax(dim=-1)


@contextmanager
def embedded(model: GPT, tokens: Tensor) -> Iterator[Tensor]:
    """Let the model start from a leaf tensor with the embeddings of the tokens."""
    x = model.wte(tokens).detach().requires_grad_()
    hook = model.wte.register_forward_hook(lambda *_: x)
    try:
        yield x
    finally:
        hook.remove()


def _violation(
    model: GPT, tokens_1T: Tensor, position: int, token: int, alone: bool, setting: Setting
) -> Violation:
    # Changes from several tokens on, because one may not show a leak that depends on values.
    splits = splits_of(setting.length, MAX_CHANGES)
    starts = [split for split in splits if split > position]
    tokens = tokens_1T.repeat(1 + len(starts), 1)
    changed = tokens.clone()
    changed[0, token : token + 1 if alone else None] += 7
    for row, start in enumerate(starts, start=1):
        changed[row, start:] += 7
    changed %= VOCABULARY
    for training in dict.fromkeys((setting.training, False)):
        where = first_difference(model, tokens, changed, lambda x: x[:, : position + 1], training)
        if where:
            break
    later = f"token {token}" if alone else f"the tokens from {token} on"
    message = f"the output at position {position} depends on {later} ({setting})"
    return Violation("causality", message, where)


def first_difference(
    model: GPT,
    tokens: Tensor,
    changed: Tensor,
    part: Callable[[Tensor], Tensor],
    training: bool,
    batched: bool = False,
) -> str:
    """Return the first module of which `part` of the output differs between two inputs, or "".

    It names the module's path, its class and file. Attention that leaks only with the positional
    encoding names that too.
    """
    with torch.no_grad():
        before = trace(model, tokens, training)
        after = trace(model, changed, training)
    for name, output in before.items():
        other = after.get(name)
        if other is None or other.shape != output.shape:
            continue
        difference = (part(other) - part(output)).abs()
        if difference.numel() and difference.max() > ROUNDING * output.abs().max():
            return f"{name} ({_source(model, name)})"
    return _first_by_gradient(model, tokens, changed, part, training)


def _first_by_gradient(
    model: GPT, tokens: Tensor, changed: Tensor, part: Callable[[Tensor], Tensor], training: bool
) -> str:
    """Return the first module of which `part` of the output has a gradient to a changed token."""
    differs = changed != tokens
    with embedded(model, tokens) as x:
        traced = trace(model, tokens, training)
    for name, output in traced.items():
        if not output.requires_grad:
            continue
        (gradient,) = torch.autograd.grad(
            part(output).sum(), x, allow_unused=True, retain_graph=True
        )
        if gradient is None:
            continue
        size = gradient.abs().amax(dim=-1)
        if size[differs].max() > GRADIENT_ROUNDING * size.max():
            return f"{name} ({_source(model, name)})"
    return ""


def trace(model: GPT, tokens: Tensor, training: bool) -> Trace:
    """Return the outputs of the embedding and of each part of the model, in their order."""
    traced: Trace = {}
    hooks = []
    names: dict[nn.Module, str] = {}
    names |= {module: name for name, module in model.named_modules() if isinstance(module, Part)}

    def record(module: nn.Module, _: object, output: Tensor) -> None:
        traced[names[module]] = output

    for module in names:
        hooks.append(module.register_forward_hook(record))
    embed = model.positional.embed

    def recorded_embed(x_BTC: Tensor, positions_T: Tensor) -> Tensor:
        traced["positional.embed"] = embed(x_BTC, positions_T)
        return traced["positional.embed"]

    model.positional.embed = recorded_embed  # type: ignore[method-assign]
    try:
        model.train(training)
        with seeded():
            model.logits(tokens)
    finally:
        del model.positional.embed
        for hook in hooks:
            hook.remove()
    return traced


def _source(model: GPT, name: str) -> str:
    module = model.positional if name == "positional.embed" else model.get_submodule(name)
    return f"{type(module).__name__}, {class_line(type(module))}"
