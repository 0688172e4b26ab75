"""A sliding window block by block, or tile by tile: nothing grows faster than T x window, gradients neither.

Legend of shapes: R residues of positions modulo the dilation, S positions of each, Z sequences of them (B x H x R),
N blocks, Q queries of a block, K keys of a block, the global ones included.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from variants.attention._window import Window

Bias = Callable[[Tensor, Tensor], Tensor]
MAX_BLOCK_ELEMENTS = (
    1 << 23
)  # elements of the keys of blocks that a CPU attends to at once; its memory allocator is slow above it
TILE = 128  # queries, and keys, of a tile of flex_attention


def attend_blocks(
    window: Window,
    q_BHTD: Tensor,
    k_BHTD: Tensor,
    v_BHTD: Tensor,
    bias: Bias | None,
    scores: Callable[..., Tensor],
) -> Tensor:
    """Attend from the first positions of each residue at once, and from all others in blocks of Q that share one mask.

    `bias` takes the indices of queries (..., Tq) and keys (..., Tk) and returns what to add, (..., H or 1, Tq, Tk).
    """
    (B, H, T, D), R, n_global, (size, reach) = (
        q_BHTD.shape,
        window.dilation,
        window.n_global,
        block(window),
    )
    S = -(-T // R)
    # What comes first is so much that no block has a global key among its own.
    n_first = S - max(0, (S - reach - -(-n_global // R)) // size) * size
    n_part = MAX_BLOCK_ELEMENTS // (B * H * R * D * (size + reach)) * size or size
    starts = (0, *range(n_first, S, S if q_BHTD.is_cuda else n_part), S)
    index_11T1 = torch.arange(S * R, device=q_BHTD.device)[None, None, :, None]
    q, q_index = (cut(x, window, starts, 0) for x in (q_BHTD, index_11T1))
    k, v, k_index = (cut(x, window, starts, reach) for x in (k_BHTD, v_BHTD, index_11T1))
    parts = []
    for n, (q_ZNQD, k_ZNKD, v_ZNKD) in enumerate(zip(q, k, v, strict=True)):
        shared = bias is None and (n > 0 or not n_global)
        is_causal = shared and n == 0 and n_first <= window.width
        mask = (
            None
            if is_causal
            else masks(window, q_index[n][..., 0], k_index[n][..., 0], bias, (B, H), shared)
        )
        parts.append(scores(q_ZNQD, k_ZNKD, v_ZNKD, mask, is_causal=is_causal).flatten(1, 2))
    y_ZSD = torch.cat(parts, dim=1)
    return y_ZSD.unflatten(0, (B, H, R)).transpose(2, 3).flatten(2, 3)[:, :, :T]


def block(window: Window) -> tuple[int, int]:
    """Return Q, and how many keys before its own a block needs, a multiple of Q.

    Small blocks look at few keys in vain, large ones are few; a half to a quarter of the window was fastest on a CPU.
    """
    size = -(-window.width // min(4, max(2, -(-window.width // 128))))
    return size, -(-window.width // size) * size


def split_by_residue(x_BHTD: Tensor, dilation: int) -> Tensor:
    """Return (Z, S, D): positions with the same residue side by side, padded to the same length."""
    if pad := -x_BHTD.shape[2] % dilation:
        x_BHTD = F.pad(x_BHTD, (0, 0, 0, pad))
    return x_BHTD.unflatten(2, (-1, dilation)).transpose(2, 3).flatten(0, 2)


def cut(x_BHTD: Tensor, window: Window, starts: Sequence[int], reach: int) -> list[Tensor]:
    """Return (Z, N, K, D) for each part: what comes first is one block, all others are blocks of Q and `reach` before.

    With a reach, these are keys or values, and the global ones come before them in each block.
    """
    first_ZSD, *others = Slices.apply(split_by_residue(x_BHTD, window.dilation), starts, reach)
    parts = [first_ZSD[:, None], *(Windows.apply(x, block(window)[0], reach) for x in others)]
    if not reach or not window.n_global:
        return parts
    global_ZGD = (
        x_BHTD[:, :, None, : window.n_global].expand(-1, -1, window.dilation, -1, -1).flatten(0, 2)
    )
    return [
        torch.cat((global_ZGD[:, None].expand(-1, x.shape[1], -1, -1), x), dim=2) for x in parts
    ]


def masks(
    window: Window,
    i_RNQ: Tensor,
    j_RNK: Tensor,
    bias: Bias | None,
    size_BH: tuple[int, int],
    shared: bool,
) -> Tensor:
    """Return what queries see, or the bias of it: (1, 1, Q, K), for all blocks, if `shared`, else (Z, N, Q, K)."""
    if shared:
        i_RNQ, j_RNK = i_RNQ[:1, :1], j_RNK[:1, :1]
    seen_RNQK = window.sees(i_RNQ[..., None], j_RNK[..., None, :])
    seen_RNQK[..., window.n_global :] &= (
        j_RNK[..., None, window.n_global :] >= window.n_global
    )  # each key once
    if shared:
        return seen_RNQK
    biased = (
        None
        if bias is None
        else bias(i_RNQ, j_RNK).movedim(2, 0).masked_fill(~seen_RNQK, -torch.inf)
    )
    mask_HRNQK = seen_RNQK[None] if biased is None else biased
    return mask_HRNQK[None].expand(*size_BH, *mask_HRNQK.shape[1:]).flatten(0, 2)


class Slices(torch.autograd.Function):
    """Views of (Z, S, D) from each start to the next, and `reach` positions before it. Their gradients add up."""

    @staticmethod
    def forward(ctx: Any, x_ZSD: Tensor, starts: Sequence[int], reach: int) -> tuple[Tensor, ...]:
        ctx.slices = [(max(0, start - reach), start, stop) for start, stop in pairwise(starts)]
        return tuple(x_ZSD[:, before:stop] for before, _, stop in ctx.slices)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad_ZSD = grads[0].new_empty((len(grads[0]), ctx.slices[-1][-1], grads[0].shape[-1]))
        for grad, (before, start, stop) in zip(grads, ctx.slices, strict=True):
            grad_ZSD[:, start:stop] = grad[:, start - before :]
            grad_ZSD[:, before:start] += grad[:, : start - before]
        return grad_ZSD, None, None


class Windows(torch.autograd.Function):
    """Views of (Z, S, D): blocks of Q, each with `reach` positions before it, (Z, N, K, D).

    The gradient adds up what overlaps, a Q at a time; autograd's own, of `unfold`, takes longer.
    """

    @staticmethod
    def forward(ctx: Any, x_ZSD: Tensor, size: int, reach: int) -> Tensor:
        ctx.size, ctx.reach = size, reach
        return x_ZSD.unfold(1, reach + size, size).transpose(-1, -2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad_ZNKD,), size, reach = grads, ctx.size, ctx.reach
        grad_ZSD = F.pad(grad_ZNKD[:, :, reach:].flatten(1, 2), (0, 0, reach, 0))
        for i in range(0, reach, size):
            grad_ZSD[:, i : i - reach].unflatten(1, (-1, size)).add_(grad_ZNKD[:, :, i : i + size])
        return grad_ZSD, None, None


def attend_tiles(window: Window, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
    """Attend by flex_attention (Dong et al. 2024), which skips tiles that are not seen; only compilation makes it so.

    Autocast does not reach it, so that q and k take the precision of v, in which no norm has changed it.
    """
    (B, H, T, _), R = q_BHTD.shape, window.dilation
    q, k, v = (
        split_by_residue(x.to(v_BHTD.dtype), R).unflatten(0, (B, H * R))
        for x in (q_BHTD, k_BHTD, v_BHTD)
    )
    y = flex_attention(
        q, k, v, block_mask=tiles(Window(window.width, 1, window.n_global), q.shape[2], q.device)
    )
    return y.unflatten(1, (H, R)).transpose(2, 3).flatten(2, 3)[:, :, :T]


def tiles(window: Window, seq_len: int, device: torch.device) -> BlockMask:
    """Return which tiles hold pairs that are seen, and which no others, by their corners rather than pair by pair."""
    k = torch.arange(0, seq_len, TILE, device=device)
    q, end = k[:, None], TILE - 1
    some = (k <= q + end) & ((k + end > q - window.width) | (k < window.n_global))
    every = (
        (k + end <= q)
        & ((k > q + end - window.width) | (k + end < window.n_global))
        & (q + end < seq_len)
    )
    ordered = (x.int().sort(dim=-1, descending=True, stable=True) for x in (some & ~every, every))
    partial, full = ((x.sum(-1)[None, None].int(), order[None, None].int()) for x, order in ordered)
    return BlockMask.from_kv_blocks(
        *partial, *full, TILE, lambda b, h, q, k: window.sees(q, k), (seq_len, seq_len)
    )
