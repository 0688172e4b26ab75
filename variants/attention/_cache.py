"""What decoding keeps of the past, shared by the variants that attend to keys and values of heads."""

import torch
from torch import Tensor


class KeyValueCache:
    """Keys and values of the last L positions: (B, G, L, D) each, allocated once, a ring once L have been seen."""

    def __init__(self, size_BGLD: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype) -> None:
        self._keys, self._values = (torch.empty(size_BGLD, device=device, dtype=dtype) for _ in range(2))
        self._length = size_BGLD[2]
        self.n_seen = 0

    @property
    def nbytes(self) -> int:
        """Return the bytes of both."""
        return self._keys.nbytes + self._values.nbytes

    def append(self, k_BGTD: Tensor, v_BGTD: Tensor) -> None:
        """Take T more positions, of which the last L count; each lies at its position modulo L."""
        self.n_seen += k_BGTD.shape[2]
        first = max(self.n_seen - k_BGTD.shape[2], self.n_seen - self._length)
        while first < self.n_seen:  # once, and once more where it reaches over the ring's end
            slot, back = first % self._length, self.n_seen - first
            n = min(back, self._length - slot)
            for ring, new in ((self._keys, k_BGTD), (self._values, v_BGTD)):
                ring[:, :, slot : slot + n] = new[:, :, new.shape[2] - back :][:, :, :n]
            first += n

    def visible(self) -> tuple[Tensor, Tensor]:
        """Return the keys and values that are there, (B, G, min(n_seen, L), D), in the ring's order."""
        n = min(self.n_seen, self._length)
        return self._keys[:, :, :n], self._values[:, :, :n]

    def positions(self) -> Tensor:
        """Return the positions of those, (min(n_seen, L),)."""
        slot = torch.arange(min(self.n_seen, self._length), device=self._keys.device)
        return self.n_seen - 1 - (self.n_seen - 1 - slot) % self._length
