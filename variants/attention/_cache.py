"""Ring buffers for decoding, shared by the variants that attend to single earlier positions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from variants.base import Positional
from variants.static_cache import StaticPosition


class Ring:
    """The last L positions of some tensors, (B, G, L, D) each, in buffers allocated once.

    The first `n_kept` positions are never overwritten; the other L - n_kept slots are a ring
    buffer. While `static` is set, `append` writes that position, and all slots are visible: then
    `bias` hides the empty ones. Without it, a query reads the filled slots only, which is faster
    while the cache is far from full.
    """

    static: StaticPosition | None = None

    def __init__(
        self,
        sizes_BGLD: Sequence[tuple[int, int, int, int]],
        device: torch.device,
        dtype: torch.dtype,
        n_kept: int = 0,
    ) -> None:
        # Zeros: a mask does not hide NaN, which uninitialized memory may hold.
        self._buffers = [torch.zeros(size, device=device, dtype=dtype) for size in sizes_BGLD]
        self._length = sizes_BGLD[0][2]
        self._n_kept = n_kept
        self._ring_length = self._length - n_kept
        self.n_seen = 0

    @property
    def nbytes(self) -> int:
        """Return the bytes of all buffers."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def append(self, *new_BGTD: Tensor) -> None:
        """Write T more positions of each tensor, as far as they are kept.

        Raises:
            ValueError: the cache is not empty and T is not 1.
        """
        n_new = new_BGTD[0].shape[2]
        if self.static is not None:
            self._write(self.static, new_BGTD)
            return
        if self.n_seen and n_new != 1:
            raise ValueError(f"after its prompt a cache takes one position at a time, got {n_new}")
        start = self.n_seen
        self.n_seen += n_new
        first = start
        while first < self.n_seen:  # a second pass after the kept positions or the end of the ring
            if first < self._n_kept:
                slot = first
                end = self._n_kept
            else:
                first = max(first, self.n_seen - self._ring_length)
                slot = self._n_kept + (first - self._n_kept) % self._ring_length
                end = self._length
            n = min(self.n_seen - first, end - slot)
            for buffer, new in zip(self._buffers, new_BGTD, strict=True):
                buffer[:, :, slot : slot + n] = new[:, :, first - start :][:, :, :n]
            first += n

    def _write(self, static: StaticPosition, new_BG1D: Sequence[Tensor]) -> None:
        for buffer, new in zip(self._buffers, new_BG1D, strict=True):
            slots = static.slots(self._length, self._n_kept, buffer.dtype)
            buffer.index_copy_(2, slots.slot_1, new.to(buffer.dtype))

    def bias(self, positional: Positional, position_1: Tensor) -> Tensor | None:
        """Return what to add to the scores of a query, (H or 1, 1, n), or None.

        It is the positional's bias, and minus infinity for empty slots.
        """
        if self.static is None:
            return positional.bias(position_1, self.positions()) if positional.has_bias else None
        slots = self.static.slots(self._length, self._n_kept, self._buffers[0].dtype)
        bias = positional.bias(position_1, slots.positions_L) if positional.has_bias else None
        return slots.mask_11L if bias is None else bias + slots.mask_11L

    def visible(self) -> tuple[Tensor, ...]:
        """Return n slots of each buffer in their order, (B, G, n, D).

        These are the min(n_seen, L) filled ones, or all L slots while `static` is set.
        """
        if self.static is not None:
            return tuple(self._buffers)
        n = min(self.n_seen, self._length)
        return tuple(buffer[:, :, :n] for buffer in self._buffers)

    def positions(self) -> Tensor:
        """Return the positions in the filled slots, (min(n_seen, L),)."""
        n = min(self.n_seen, self._length)
        slot = torch.arange(n, device=self._buffers[0].device)
        last = self.n_seen - 1
        return torch.where(slot < self._n_kept, slot, last - (last - slot) % self._ring_length)


class KeyValueCache(Ring):
    """Keys and values of heads."""

    def __init__(
        self,
        size_BGLD: tuple[int, int, int, int],
        device: torch.device,
        dtype: torch.dtype,
        n_kept: int = 0,
    ) -> None:
        super().__init__((size_BGLD, size_BGLD), device, dtype, n_kept)
