"""Sliding window with flex_attention, which skips tiles of queries and keys that are hidden."""

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from variants.attention._block_sparse import join_residues, split_by_residue
from variants.attention._window import Window

TILE = 128  # queries, and keys, of a tile
MIN_HEAD_DIM = 16  # of flex_attention


def can_tile(window: Window, q_BHTD: Tensor) -> bool:
    """Return whether to use flex_attention; uncompiled, it would compute all T x T scores."""
    if window.dilation > 1 and window.n_global:
        return False
    return q_BHTD.is_cuda and torch.compiler.is_compiling() and q_BHTD.shape[-1] >= MIN_HEAD_DIM


def attend_tiles(window: Window, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
    """Attend with flex_attention (Dong et al. 2024).

    Autocast does not apply to it, so q and k are cast to the type of v, which no norm has changed.
    """
    B, H, T, _ = q_BHTD.shape
    R = window.dilation
    dtype = v_BHTD.dtype
    q = split_by_residue(q_BHTD.to(dtype), R).unflatten(0, (B, H * R))
    k = split_by_residue(k_BHTD.to(dtype), R).unflatten(0, (B, H * R))
    v = split_by_residue(v_BHTD, R).unflatten(0, (B, H * R))
    mask = tiles(Window(window.width, 1, window.n_global), q.shape[2], q.device)
    y = flex_attention(q, k, v, block_mask=mask)
    assert isinstance(y, Tensor)
    return join_residues(y.unflatten(1, (H, R)), T)


def tiles(window: Window, seq_len: int, device: torch.device) -> BlockMask:
    """Return which tiles are partly and which fully visible, from the corners of the tiles."""
    k = torch.arange(0, seq_len, TILE, device=device)
    q = k[:, None]
    last = TILE - 1
    some = (k <= q + last) & ((k + last > q - window.width) | (k < window.n_global))
    in_window = (k > q + last - window.width) | (k + last < window.n_global)
    every = (k + last <= q) & in_window & (q + last < seq_len)
    return BlockMask.from_kv_blocks(
        *_tile_indices(some & ~every),
        *_tile_indices(every),
        TILE,
        lambda b, h, q, k: window.sees(q, k),
        (seq_len, seq_len),
    )


def _tile_indices(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of set tiles per row, (1, 1, N), and the columns, set ones first."""
    ordered = mask.int().sort(dim=-1, descending=True, stable=True)
    return ordered.values.sum(-1)[None, None].int(), ordered.indices[None, None].int()
