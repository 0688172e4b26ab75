"""Batches and evaluation windows as a function of (data seed, step), without iterator state."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from harness.results.records import TokenDtype, TokenSlice

DTYPES: dict[TokenDtype, np.dtype[np.unsignedinteger]] = {
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
}


class Tokens:
    """The tokens of a split as one sequence over all its memory-mapped files."""

    def __init__(self, slices: Sequence[TokenSlice]) -> None:
        self._opened = {part.file: os.stat(part.file) for part in slices}
        self._parts = [
            np.memmap(part.file, dtype=DTYPES[part.dtype], mode="r")[part.start : part.stop]
            for part in slices
        ]
        self._dtype = np.result_type(*self._parts)
        self._ends = np.cumsum([len(part) for part in self._parts])
        corpora = np.array([part.part for part in slices])
        self._corpus_ends = self._ends[np.append(corpora[1:] != corpora[:-1], True)]

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def overwritten(self) -> list[str]:
        """The files whose content has changed in place since they were opened.

        A file that was replaced is still mapped as it was.
        """
        files = []
        for file, opened in self._opened.items():
            try:
                present = os.stat(file)
            except OSError:  # removed
                continue
            is_same_file = os.path.samestat(present, opened)
            content = (present.st_size, present.st_mtime_ns)
            if is_same_file and content != (opened.st_size, opened.st_mtime_ns):
                files.append(file)
        return files

    @property
    def ranges(self) -> np.ndarray:
        """The first token of each corpus of a mixture and the one after its last, (n, 2)."""
        starts = np.concatenate(([0], self._corpus_ends[:-1]))
        return np.stack((starts, self._corpus_ends), axis=1)

    def window(self, start: int, length: int) -> np.ndarray:
        """Return `length` tokens from `start`, also across the end of a file."""
        index = int(np.searchsorted(self._ends, start, side="right"))
        offset = start - int(self._ends[index] - len(self._parts[index]))
        pieces = []
        while length > 0:
            piece = self._parts[index][offset : offset + length]
            pieces.append(piece)
            length -= len(piece)
            offset = 0
            index += 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def windows(self, offsets: np.ndarray, seq_len: int) -> tuple[Tensor, Tensor]:
        """Return the windows that begin at `offsets`, and the same windows one token later.

        Both are (n, seq_len), int64: inputs and targets.
        """
        rows = np.empty((len(offsets), seq_len + 1), dtype=self._dtype)
        part_of = np.searchsorted(self._ends, offsets, side="right")
        in_one_file = offsets + seq_len < self._ends[part_of]
        # All windows of a file are copied at once; one by one takes ten times as long.
        for part in np.unique(part_of[in_one_file]):
            selected = in_one_file & (part_of == part)
            first = self._ends[part] - len(self._parts[part])
            views = sliding_window_view(self._parts[part], seq_len + 1)
            rows[selected] = views[offsets[selected] - first]
        for i in np.flatnonzero(~in_one_file):
            rows[i] = self.window(int(offsets[i]), seq_len + 1)
        tokens = torch.from_numpy(rows.astype(np.int64))
        return tokens[:, :-1], tokens[:, 1:]


def micro_batch_size(local_sequences: int, limit: int | None) -> int:
    """Return how many of a rank's `local_sequences` are in one forward pass: all, or `limit`.

    Raises:
        ValueError: `limit` does not divide `local_sequences`.
    """
    if limit is None or local_sequences <= limit:
        return local_sequences
    if local_sequences % limit:
        raise ValueError(f"{limit} does not divide the {local_sequences} sequences of a rank")
    return limit


@dataclass(frozen=True)
class Batches:
    """The training sequences of every step: random windows of `seq_len` + 1 tokens.

    In a mixture, each window is of one corpus, which is drawn first, by the `weights`.

    Step 0 is step `offset_steps` of the data order, so that a run which continues another one
    trains on other batches.
    """

    tokens: Tokens
    seq_len: int
    n_sequences: int
    seed: int
    offset_steps: int = 0
    weights: Sequence[float] = (1.0,)

    def offsets(self, step: int) -> np.ndarray:
        """Return the starts of the step's windows, (n_sequences,), the same on every rank."""
        key = np.array([self.seed, self.offset_steps + step], dtype=np.uint64)
        generator = np.random.Generator(np.random.Philox(key=key))
        if len(self.weights) == 1:
            n_starts = len(self.tokens) - self.seq_len
            return generator.integers(0, n_starts, size=self.n_sequences)
        ends = np.cumsum(self.weights) / np.sum(self.weights)
        drawn = np.searchsorted(ends, generator.random(self.n_sequences), side="right")
        corpora = np.minimum(drawn, len(ends) - 1)  # the last end may be below 1 by rounding
        starts, stops = self.tokens.ranges[corpora].T
        offsets: np.ndarray = generator.integers(starts, stops - self.seq_len)
        return offsets

    def micro_batches(
        self,
        step: int,
        rank: int,
        world_size: int,
        micro_batch: int,
        n_sequences: int | None = None,
    ) -> list[tuple[Tensor, Tensor]]:
        """Return a rank's micro-batches of the step as (tokens, targets).

        Both are (micro_batch, seq_len), int64. `n_sequences` limits the step to its first ones.
        """
        local_offsets = self.offsets(step)[:n_sequences].reshape(world_size, -1, micro_batch)[rank]
        return [self.tokens.windows(offsets, self.seq_len) for offsets in local_offsets]


def evaluation_offsets(n_tokens: int, seq_len: int, eval_tokens: int | None) -> np.ndarray:
    """Return the starts of the evaluation windows, which do not overlap.

    With `eval_tokens`, these are evenly spaced windows of that many tokens in all; without, every
    window.
    """
    n_all = (n_tokens - 1) // seq_len
    n = n_all if eval_tokens is None else min(n_all, max(1, eval_tokens // seq_len))
    return np.arange(n) * n_all // n * seq_len


def mixture_evaluation_offsets(
    tokens: Tokens, weights: Sequence[float], seq_len: int, eval_tokens: int | None, half: slice
) -> tuple[np.ndarray, np.ndarray]:
    """Return the starts of the evaluation windows of all corpora, and the weight of each window.

    Each corpus has its share of `eval_tokens`, at least two windows. The weights give each corpus
    its share of the mean over all windows. `half` selects from the windows of each corpus.
    """
    offsets = []
    for (start, stop), weight in zip(tokens.ranges.tolist(), weights, strict=True):
        limit = eval_tokens
        if eval_tokens is not None and len(weights) > 1:
            limit = max(round(eval_tokens * weight), 2 * seq_len)
        offsets.append(start + evaluation_offsets(stop - start, seq_len, limit)[half])
    n_windows = sum(len(part) for part in offsets)
    window_weights = [
        np.full(len(part), weight * n_windows / max(1, len(part)))
        for part, weight in zip(offsets, weights, strict=True)
    ]
    return np.concatenate(offsets), np.concatenate(window_weights)


def shard_eval_windows(
    offsets: np.ndarray,
    rank: int,
    world_size: int,
    batch: int,
    window_weights: np.ndarray | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return a rank's batches of evaluation windows as (offsets, weights).

    Every rank gets the same number of batches; otherwise a collective in the forward pass would
    deadlock. Windows that pad the last batch have weight 0, others 1 or their `window_weights`.
    """
    per_rank = -(-len(offsets) // world_size)
    index = np.arange(per_rank) * world_size + rank
    weights = (index < len(offsets)).astype(np.float64)
    window = np.minimum(index, len(offsets) - 1)
    local_offsets = offsets[window]
    if window_weights is not None:
        weights *= window_weights[window]
    starts = range(0, per_rank, batch)
    return [
        (local_offsets[start : start + batch], weights[start : start + batch]) for start in starts
    ]
