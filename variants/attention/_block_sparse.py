"""Sliding window in blocks of queries: time and memory grow with T x window, also of gradients.

Shapes: R residues of positions modulo the dilation, S positions of each residue, Z = B x H x R
sequences, N blocks, Q queries of a block, K keys of a block, including the global keys.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from variants.attention._window import Window
from variants.base import Positional

Scores = Callable[..., Tensor]
# Elements of the keys of the blocks that a CPU processes at once; its memory allocator is slow for
# larger tensors.
MAX_BLOCK_ELEMENTS = 1 << 23


@dataclass(frozen=True)
class HeadBias:
    """The bias of some heads between indices of positions. Indices beyond T are padding."""

    positional: Positional
    positions_T: Tensor
    heads: slice

    def __call__(self, q_index: Tensor, k_index: Tensor) -> Tensor:
        """Return the bias of (..., Tq) and (..., Tk), (..., H or 1, Tq, Tk)."""
        last = len(self.positions_T) - 1
        q_positions = self.positions_T[q_index.clamp(max=last)]
        k_positions = self.positions_T[k_index.clamp(max=last)]
        bias = self.positional.bias(q_positions, k_positions)
        assert bias is not None
        return bias if bias.shape[-3] == 1 else bias[..., self.heads, :, :]


def attend_blocks(
    window: Window,
    q_BHTD: Tensor,
    k_BHTD: Tensor,
    v_BHTD: Tensor,
    bias: HeadBias | None,
    scores: Scores,
    documents_BT: Tensor | None = None,
) -> Tensor:
    """Attend from the first positions of each residue at once, from the others in blocks of Q.

    Blocks after the first share one mask, unless there is a bias or documents. `scores` is
    `MultiHead.scores`.
    """
    B, H, T, D = q_BHTD.shape
    R = window.dilation
    size, reach = block_size(window)
    S = -(-T // R)
    # The first block is so long that the windows of the others contain no global key.
    n_first = S - max(0, (S - reach - -(-window.n_global // R)) // size) * size
    n_chunk = MAX_BLOCK_ELEMENTS // (B * H * R * D * (size + reach)) * size or size
    if q_BHTD.is_cuda:
        n_chunk = S
    starts = (0, *range(n_first, S, n_chunk), S)
    index_11T1 = torch.arange(S * R, device=q_BHTD.device)[None, None, :, None]
    q = cut(q_BHTD, window, starts, 0)
    k = cut(k_BHTD, window, starts, reach)
    v = cut(v_BHTD, window, starts, reach)
    q_index = cut(index_11T1, window, starts, 0)
    k_index = cut(index_11T1, window, starts, reach)
    outputs = []
    for n in range(len(q)):
        shared = bias is None and documents_BT is None and (n > 0 or not window.n_global)
        is_causal = shared and n == 0 and n_first <= window.width
        mask = None
        if not is_causal:
            index = (q_index[n][..., 0], k_index[n][..., 0])
            mask = masks(window, *index, bias, (B, H), shared, documents_BT)
        outputs.append(scores(q[n], k[n], v[n], mask, is_causal=is_causal).flatten(1, 2))
    return join_residues(torch.cat(outputs, dim=1).unflatten(0, (B, H, R)), T)


def block_size(window: Window) -> tuple[int, int]:
    """Return Q and the number of keys before its own that a block needs, a multiple of Q.

    Small blocks compute fewer hidden pairs, large blocks need fewer kernels; a half to a quarter of
    the window was fastest on a CPU.
    """
    size = -(-window.width // min(4, max(2, -(-window.width // 128))))
    return size, -(-window.width // size) * size


def split_by_residue(x_BHTD: Tensor, dilation: int) -> Tensor:
    """Return (Z, S, D): the positions of each residue as one sequence, padded to equal length."""
    if padding := -x_BHTD.shape[2] % dilation:
        x_BHTD = F.pad(x_BHTD, (0, 0, 0, padding))
    x_BHSRD: Tensor = x_BHTD.unflatten(2, (-1, dilation))
    return x_BHSRD.transpose(2, 3).flatten(0, 2)


def join_residues(x_BHRSD: Tensor, length: int) -> Tensor:
    """Return (B, H, T, D): the positions of all residues in order, without padding."""
    return x_BHRSD.transpose(2, 3).flatten(2, 3)[:, :, :length]


def cut(x_BHTD: Tensor, window: Window, starts: Sequence[int], reach: int) -> list[Tensor]:
    """Return (Z, N, K, D) for each range of `starts`: one block first, then blocks of Q.

    With a reach, x are keys or values: each block is preceded by `reach` more positions and by the
    global positions.
    """
    x_ZSD = split_by_residue(x_BHTD, window.dilation)
    first_ZSD, *others = _slices(x_ZSD, starts, reach)
    size, _ = block_size(window)
    chunks = [first_ZSD[:, None], *(_blocks(x, size, reach) for x in others)]
    if not reach or not window.n_global:
        return chunks
    global_BH1GD = x_BHTD[:, :, None, : window.n_global]
    global_Z1GD = global_BH1GD.expand(-1, -1, window.dilation, -1, -1).flatten(0, 2)[:, None]
    return [torch.cat((global_Z1GD.expand(-1, x.shape[1], -1, -1), x), dim=2) for x in chunks]


def masks(
    window: Window,
    q_RNQ: Tensor,
    k_RNK: Tensor,
    bias: HeadBias | None,
    size_BH: tuple[int, int],
    shared: bool,
    documents_BT: Tensor | None = None,
) -> Tensor:
    """Return the masks or biases of the blocks, (Z, N, Q, K), or (1, 1, Q, K) if `shared`."""
    if shared:
        q_RNQ = q_RNQ[:1, :1]
        k_RNK = k_RNK[:1, :1]
    seen_RNQK = window.sees(q_RNQ[..., None], k_RNK[..., None, :])
    # A global key that is also in the window counts once.
    not_global = k_RNK[..., None, window.n_global :] >= window.n_global
    seen_RNQK[..., window.n_global :] &= not_global
    if shared:
        return seen_RNQK
    mask_BHRNQK = seen_RNQK[None, None]
    if documents_BT is not None:
        mask_BHRNQK = mask_BHRNQK & _same_document(documents_BT, q_RNQ, k_RNK)[:, None]
    if bias is not None:
        bias_HRNQK = bias(q_RNQ, k_RNK).movedim(2, 0)
        mask_BHRNQK = bias_HRNQK.masked_fill(~mask_BHRNQK, -torch.inf)
    return mask_BHRNQK.expand(*size_BH, *mask_BHRNQK.shape[2:]).flatten(0, 2)


def _same_document(documents_BT: Tensor, q_RNQ: Tensor, k_RNK: Tensor) -> Tensor:
    """Return whether query and key are in one document, (B, R, N, Q, K); padding is in the last."""
    last = documents_BT.shape[1] - 1
    q_BRNQ = documents_BT[:, q_RNQ.clamp(max=last)]
    k_BRNK = documents_BT[:, k_RNK.clamp(max=last)]
    return q_BRNQ[..., None] == k_BRNK[..., None, :]


class Slices(torch.autograd.Function):
    """Views of (Z, S, D) from each start to the next, with `reach` positions before it.

    The gradients of overlapping positions are added.
    """

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


class Blocks(torch.autograd.Function):
    """Views of (Z, S, D) as blocks of Q, each with `reach` positions before it, (Z, N, K, D).

    The gradient adds the overlaps Q positions at a time, which is faster than the gradient of
    `unfold`.
    """

    @staticmethod
    def forward(ctx: Any, x_ZSD: Tensor, size: int, reach: int) -> Tensor:
        ctx.size = size
        ctx.reach = reach
        return x_ZSD.unfold(1, reach + size, size).transpose(-1, -2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad_ZNKD,) = grads
        size = ctx.size
        reach = ctx.reach
        grad_ZSD = F.pad(grad_ZNKD[:, :, reach:].flatten(1, 2), (0, 0, reach, 0))
        for i in range(0, reach, size):
            grad_ZSD[:, i : i - reach].unflatten(1, (-1, size)).add_(grad_ZNKD[:, :, i : i + size])
        return grad_ZSD, None, None


_slices: Callable[[Tensor, Sequence[int], int], tuple[Tensor, ...]] = Slices.apply
_blocks: Callable[[Tensor, int, int], Tensor] = Blocks.apply
