"""Windows and documents with flex_attention, which skips tiles of queries and keys that are hidden.

Shapes: B batch, H heads, G key-value heads, T positions, D width of a head, N tiles.
"""

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from variants.attention._block_sparse import join_residues, split_by_residue
from variants.attention._window import Window

TILE = 128  # queries, and keys, of a tile
MIN_HEAD_DIM = 16  # of flex_attention
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def can_tile(
    window: Window,
    device_type: str,
    dtype: torch.dtype,
    head_dim: int,
    *,
    compiling: bool,
    plain_scores: bool,
    documents: bool,
) -> bool:
    """Return whether to use flex_attention; uncompiled, it would compute all T x T scores.

    `head_dim` is the width of a head's keys or values, whichever is less. `plain_scores` have
    neither a bias nor a softcap nor dropout. A dilated window reorders the positions, which neither
    global tokens nor documents permit. The kernels have no fp64.
    """
    if window.dilation > 1 and (window.n_global or documents):
        return False
    has_kernel = dtype in DTYPES and head_dim >= MIN_HEAD_DIM
    return device_type == "cuda" and compiling and plain_scores and has_kernel


def attend_tiles(
    window: Window,
    q_BHTD: Tensor,
    k_BGTD: Tensor,
    v_BGTD: Tensor,
    documents_BT: Tensor | None = None,
) -> Tensor:
    """Attend with flex_attention (Dong et al. 2024).

    Autocast does not apply to it, so q and k are cast to the type of v, which no norm has changed.
    Values may be narrower than keys. A dilated window needs a key-value head for each query head.
    """
    B, H, T, _ = q_BHTD.shape
    dtype = v_BGTD.dtype
    R = window.dilation
    if R == 1:
        mask = tiles(window, T, q_BHTD.device, documents_BT)
        grouped = k_BGTD.shape[1] != H
        q, k = q_BHTD.to(dtype), k_BGTD.to(dtype)
        y = flex_attention(q, k, v_BGTD, block_mask=mask, enable_gqa=grouped)
        assert isinstance(y, Tensor)
        return y
    q = split_by_residue(q_BHTD.to(dtype), R).unflatten(0, (B, H * R))
    k = split_by_residue(k_BGTD.to(dtype), R).unflatten(0, (B, H * R))
    v = split_by_residue(v_BGTD, R).unflatten(0, (B, H * R))
    mask = tiles(Window(window.width), q.shape[2], q.device)
    y = flex_attention(q, k, v, block_mask=mask)
    assert isinstance(y, Tensor)
    return join_residues(y.unflatten(1, (H, R)), T)


def tiles(
    window: Window, seq_len: int, device: torch.device, documents_BT: Tensor | None = None
) -> BlockMask:
    """Return which tiles are partly and which fully visible, from the corners of the tiles.

    Documents are numbered in the order of their positions. With them, a tile may be listed as
    partly visible of which no pair is.
    """
    k = torch.arange(0, seq_len, TILE, device=device)
    q = k[:, None]
    last = TILE - 1
    some = (k <= q + last) & ((k + last > q - window.width) | (k < window.n_global))
    in_window = (k > q + last - window.width) | (k + last < window.n_global)
    every = (k + last <= q) & in_window & (q + last < seq_len)
    some_BNN, every_BNN = some[None], every[None]
    if documents_BT is not None:
        first_BN = documents_BT[:, k]
        last_BN = documents_BT[:, (k + last).clamp(max=seq_len - 1)]
        some_BNN = some_BNN & (last_BN[:, None] >= first_BN[..., None])
        every_BNN = every_BNN & (first_BN[:, None] == last_BN[..., None])

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        seen = window.sees(q, k)
        if documents_BT is None:
            return seen
        return seen & (documents_BT[b, q] == documents_BT[b, k])

    return BlockMask.from_kv_blocks(
        *_tile_indices(some_BNN & ~every_BNN),
        *_tile_indices(every_BNN),
        TILE,
        sees,
        (seq_len, seq_len),
    )


def _tile_indices(mask_BNN: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of set tiles per row, (B, 1, N), and the columns, set ones first."""
    ordered = mask_BNN.int().sort(dim=-1, descending=True, stable=True)
    return ordered.values.sum(-1)[:, None].int(), ordered.indices[:, None].int()
