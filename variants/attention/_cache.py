"""What decoding keeps of the past, shared by the variants that look back at single positions."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Ring:
    """The last L positions of some tensors: (B, G, L, D) each, allocated once, a ring once L have been seen.

    The first `n_kept` positions stay, and the ring is of the L - n_kept slots behind them.
    """

    def __init__(
        self,
        sizes_BGLD: Sequence[tuple[int, int, int, int]],
        device: torch.device,
        dtype: torch.dtype,
        n_kept: int = 0,
    ) -> None:
        self._rings = [torch.empty(size, device=device, dtype=dtype) for size in sizes_BGLD]
        self._length, self._n_kept = sizes_BGLD[0][2], n_kept
        self._turn = self._length - n_kept
        self.n_seen = 0

    @property
    def nbytes(self) -> int:
        """Return the bytes of all."""
        return sum(ring.nbytes for ring in self._rings)

    def append(self, *new_BGTD: Tensor) -> None:
        """Take T more positions of each, of which the kept ones and the ring's last count."""
        first = start = self.n_seen
        self.n_seen += new_BGTD[0].shape[2]
        while (
            first < self.n_seen
        ):  # once, and once more where it goes on from the kept ones or over the ring's end
            slot, end = first, self._n_kept
            if first >= self._n_kept:
                first = max(first, self.n_seen - self._turn)
                slot, end = self._n_kept + (first - self._n_kept) % self._turn, self._length
            n = min(self.n_seen - first, end - slot)
            for ring, new in zip(self._rings, new_BGTD, strict=True):
                ring[:, :, slot : slot + n] = new[:, :, first - start :][:, :, :n]
            first += n

    def visible(self) -> tuple[Tensor, ...]:
        """Return what is there of each, (B, G, min(n_seen, L), D), in the ring's order."""
        n = min(self.n_seen, self._length)
        return tuple(ring[:, :, :n] for ring in self._rings)

    def positions(self) -> Tensor:
        """Return the positions of those, (min(n_seen, L),)."""
        slot, last = (
            torch.arange(min(self.n_seen, self._length), device=self._rings[0].device),
            self.n_seen - 1,
        )
        return torch.where(slot < self._n_kept, slot, last - (last - slot) % self._turn)


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
