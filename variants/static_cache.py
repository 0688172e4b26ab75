"""Decoding at a position that is a tensor, so that each step runs the same operations.

A CUDA graph repeats operations with the shapes and the integers that they had when it was captured.
A step that slices a cache by the number of positions seen would repeat the slice of one position.
Here a step writes to a slot and masks slots that it computes on the device.

Legend of shapes: L positions in a cache.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Slots(NamedTuple):
    """The slot (1,) that a ring buffer writes, and what its L slots then hold.

    `positions_L` are those in the slots, and the present one in empty slots; `mask_11L`, (1, 1, L),
    is 0, and minus infinity for empty slots.
    """

    slot_1: Tensor
    positions_L: Tensor
    mask_11L: Tensor


class StaticPosition:
    """The position that is decoded next, in a tensor whose memory stays the same.

    Caches of the same size share what follows from it, which each step computes once.
    """

    def __init__(self, position: int, device: torch.device) -> None:
        self._position_1 = torch.full((1,), position, device=device)
        self._slots: dict[tuple[int, int, torch.dtype], Slots] = {}

    def begin_step(self) -> Tensor:
        """Return the position, (1,), as a new object: its value differs from that of older ones."""
        self._slots.clear()
        return self._position_1.view(1)

    def end_step(self) -> None:
        """Advance to the next position."""
        self._slots.clear()
        self._position_1.add_(1)

    def set(self, position: int) -> None:
        """Set the position without waiting for the device."""
        self._position_1.fill_(position)

    def slots(self, length: int, n_kept: int, dtype: torch.dtype) -> Slots:
        """Return the slots of a cache whose first `n_kept` positions are never overwritten.

        The other slots are a ring buffer. The mask has type `dtype`.
        """
        key = (length, n_kept, dtype)
        if key not in self._slots:
            self._slots[key] = self._compute(*key)
        return self._slots[key]

    def _compute(self, length: int, n_kept: int, dtype: torch.dtype) -> Slots:
        now_1 = self._position_1
        slot_L = torch.arange(length, device=now_1.device)
        last_L = now_1 - (now_1 - slot_L) % (length - n_kept)  # at or before now, in the ring
        written_1 = n_kept + (now_1 - n_kept) % (length - n_kept)
        if n_kept:
            last_L = torch.where(slot_L < n_kept, slot_L, last_L)
            written_1 = torch.where(now_1 < n_kept, now_1, written_1)
        is_empty_L = slot_L > now_1  # slots are filled in their order
        mask_L = torch.zeros(length, device=now_1.device, dtype=dtype)
        mask_L = mask_L.masked_fill(is_empty_L, -torch.inf)
        return Slots(written_1, torch.where(is_empty_L, now_1, last_L), mask_L.view(1, 1, length))
