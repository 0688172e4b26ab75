"""Ring buffers for decoding, shared by the variants that attend to single earlier positions."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Ring:
    """The last L positions of some tensors, (B, G, L, D) each, in buffers allocated once.

    The first `n_kept` positions are never overwritten; the other L - n_kept slots are a ring
    buffer.
    """

    def __init__(
        self,
        sizes_BGLD: Sequence[tuple[int, int, int, int]],
        device: torch.device,
        dtype: torch.dtype,
        n_kept: int = 0,
    ) -> None:
        self._buffers = [torch.empty(size, device=device, dtype=dtype) for size in sizes_BGLD]
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

    def visible(self) -> tuple[Tensor, ...]:
        """Return the filled slots of each buffer in their order, (B, G, min(n_seen, L), D)."""
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
