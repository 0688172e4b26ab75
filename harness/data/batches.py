"""Batches and evaluation windows: which tokens a rank sees at a step is a function of (seed, step), nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from harness.results.records import TokenSlice


class Tokens:
    """The tokens of a split, mapped into memory and not read: one sequence over all its files."""

    def __init__(self, slices: Sequence[TokenSlice]) -> None:
        self._parts = [
            np.memmap(part.file, dtype=np.uint16, mode="r")[part.start : part.stop]
            for part in slices
        ]
        self._ends = np.cumsum([len(part) for part in self._parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def window(self, start: int, length: int) -> np.ndarray:
        """Return `length` tokens from `start` on; a window may reach over the end of a file."""
        found, index = [], int(np.searchsorted(self._ends, start, side="right"))
        offset = start - int(self._ends[index] - len(self._parts[index]))
        while length > 0:
            found.append(self._parts[index][offset : offset + length])
            length, offset, index = length - len(found[-1]), 0, index + 1
        return found[0] if len(found) == 1 else np.concatenate(found)

    def windows(self, offsets: np.ndarray, seq_len: int) -> tuple[Tensor, Tensor]:
        """Return the windows that begin at `offsets`, and the same one token later: (n, seq_len) each, int64."""
        rows = np.empty((len(offsets), seq_len + 1), dtype=np.uint16)
        part_of = np.searchsorted(self._ends, offsets, side="right")
        whole = offsets + seq_len < self._ends[part_of]
        for part in np.unique(
            part_of[whole]
        ):  # all windows of a file at once: one by one takes ten times as long
            mine = whole & (part_of == part)
            first = self._ends[part] - len(self._parts[part])
            rows[mine] = sliding_window_view(self._parts[part], seq_len + 1)[offsets[mine] - first]
        for i in np.flatnonzero(~whole):
            rows[i] = self.window(int(offsets[i]), seq_len + 1)
        tokens = torch.from_numpy(rows.astype(np.int64))
        return tokens[:, :-1], tokens[:, 1:]


def micro_batch_size(share: int, cap: int | None) -> int:
    """Return how many of a rank's `share` of sequences go through the model at once: all, or `cap`, which divides it.

    Raises:
        ValueError: `cap` does not divide the share; the message names the nearest that do.
    """
    if cap is None or share <= cap:
        return share
    if share % cap:
        divisors = [n for n in range(1, share + 1) if share % n == 0]
        below, above = max(n for n in divisors if n < cap), min(n for n in divisors if n > cap)
        raise ValueError(
            f"{cap} does not divide the {share} sequences of a rank; the nearest that do: {below}, {above}"
        )
    return cap


@dataclass(frozen=True)
class Batches:
    """The training sequences of every step: random windows of `seq_len` + 1 tokens."""

    tokens: Tokens
    seq_len: int
    n_sequences: int
    seed: int

    def offsets(self, step: int) -> np.ndarray:
        """Return where the step's windows begin, (n_sequences,), the same on every rank."""
        generator = np.random.Generator(
            np.random.Philox(key=np.array([self.seed, step], dtype=np.uint64))
        )
        return generator.integers(0, len(self.tokens) - self.seq_len, size=self.n_sequences)

    def micro_batches(
        self, step: int, rank: int, world_size: int, micro_batch: int
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the rank's slice of the step as (tokens, targets), each (micro_batch, seq_len), int64."""
        share = self.offsets(step).reshape(world_size, -1, micro_batch)[rank]
        return [self.tokens.windows(offsets, self.seq_len) for offsets in share]


def evaluation_offsets(n_tokens: int, seq_len: int, eval_tokens: int | None) -> np.ndarray:
    """Return the one fixed list of windows: all that do not overlap, or evenly spread ones of `eval_tokens` in all."""
    n_all = (n_tokens - 1) // seq_len
    n = n_all if eval_tokens is None else min(n_all, max(1, eval_tokens // seq_len))
    return np.arange(n) * n_all // n * seq_len


def shard_eval_windows(
    offsets: np.ndarray, rank: int, world_size: int, batch: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the rank's batches of evaluation windows as (offsets, weights).

    Every rank gets equally many batches, or a collective in the forward pass would wait for ever; windows that fill up
    have weight 0.
    """
    per_rank = -(-len(offsets) // world_size)
    index = np.arange(per_rank) * world_size + rank
    weights = (index < len(offsets)).astype(np.float64)
    mine = offsets[np.minimum(index, len(offsets) - 1)]
    cuts = range(0, per_rank, batch)
    return [(mine[cut : cut + batch], weights[cut : cut + batch]) for cut in cuts]
