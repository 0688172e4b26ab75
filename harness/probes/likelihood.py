"""Log-likelihoods and greedy continuations of token sequences, in batches of unequal lengths.

Legend of shapes: B sequences, T positions, C channels, N scored positions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.model.decoder import Decoder
from harness.model.gpt import GPT
from harness.model.precision import autocast, dtype_of
from variants.base import Cache, Precision

MAX_TOKENS = 16_384  # per forward pass
MAX_ROWS = 2_048  # of logits at once, which limits their memory
MAX_BATCH = 64  # sequences that are decoded together

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """Input tokens, and how many of the last predictions count; `targets` are these tokens."""

    tokens: Tokens
    targets: Tokens


def windows(context: Sequence[int], continuation: Sequence[int], seq_len: int) -> Iterator[Window]:
    """Yield windows of at most `seq_len` inputs that predict each token of a continuation once.

    Each has as much context as fits. The context must not be empty.
    """
    tokens = (*context, *continuation)
    start = len(context)
    while start < len(tokens):
        end = min(start + seq_len, len(tokens))
        yield Window(tokens[max(0, end - 1 - seq_len) : end - 1], tokens[start:end])
        start = end


@dataclass(frozen=True)
class Scorer:
    """A model in evaluation mode, and how it computes. Contexts are cut to its `seq_len`."""

    model: GPT
    precision: Precision = "fp32"
    batch_size: int | None = None  # of sequences; None: as many as `MAX_TOKENS` holds

    @property
    def seq_len(self) -> int:
        """Return the number of positions that the model was trained with."""
        return self.model.shape.seq_len

    @torch.no_grad()
    def log_likelihoods(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> list[tuple[float, bool]]:
        """Return log p(continuation | context), nats, and whether it is the greedy one.

        Equal inputs are computed once, such as those of the answers of one token to a question.
        """
        parts = [list(windows(*pair, self.seq_len)) for pair in pairs]
        wanted: dict[Tokens, list[Window]] = {}
        for window in {window: None for part in parts for window in part}:
            wanted.setdefault(window.tokens, []).append(window)
        scores: dict[Window, tuple[float, bool]] = {}
        for batch in self._batches(sorted(wanted, key=len, reverse=True)):
            scores |= self._score(batch, wanted)
        results = []
        for part in parts:
            total = sum(scores[window][0] for window in part)
            results.append((total, all(scores[window][1] for window in part)))
        return results

    def _batches(self, inputs: Sequence[Tokens]) -> Iterator[Sequence[Tokens]]:
        """Yield batches of inputs, which are sorted by length, longest first."""
        start = 0
        while start < len(inputs):
            fitting = max(1, MAX_TOKENS // len(inputs[start]))
            end = start + (self.batch_size or fitting)
            yield inputs[start:end]
            start = end

    def _score(
        self, batch: Sequence[Tokens], wanted: dict[Tokens, list[Window]]
    ) -> dict[Window, tuple[float, bool]]:
        """Return the scores of the windows of these inputs.

        Inputs are padded at their end, which a causal model does not see from before it.
        """
        device = self.model.wte.weight.device
        longest = max(map(len, batch))
        tokens_BT = torch.zeros(len(batch), longest, dtype=torch.long)
        for row, tokens in enumerate(batch):
            tokens_BT[row, : len(tokens)] = torch.tensor(tokens)
        with autocast(device, self.precision):
            hidden_BTC = self.model.hidden(tokens_BT.to(device))
        scores = {}
        for row, tokens in enumerate(batch):
            for window in wanted[tokens]:
                first = len(tokens) - len(window.targets)
                hidden_NC = hidden_BTC[row, first : len(tokens)]
                scores[window] = self._likelihood(hidden_NC, window.targets)
        return scores

    def _likelihood(self, hidden_NC: Tensor, targets: Tokens) -> tuple[float, bool]:
        target_N = torch.tensor(targets, device=hidden_NC.device)
        total = 0.0
        greedy = True
        for start in range(0, len(targets), MAX_ROWS):
            rows = slice(start, start + MAX_ROWS)
            logits = self._logits(hidden_NC[rows])
            total -= F.cross_entropy(logits, target_N[rows], reduction="none").double().sum().item()
            greedy = greedy and bool((logits.argmax(-1) == target_N[rows]).all())
        return total, greedy

    def _logits(self, hidden: Tensor) -> Tensor:
        weight = self.model.output_weight
        with autocast(weight.device, self.precision):
            return F.linear(hidden, weight).float()

    @torch.no_grad()
    def continuations(
        self,
        prompts: Sequence[Sequence[int]],
        n_new: Sequence[int],
        has_ended: Callable[[int, list[int]], bool],
    ) -> list[list[int]]:
        """Return up to `n_new[i]` greedy tokens after `prompts[i]`, cut to the last that fit.

        `has_ended(i, tokens)` is asked after each token. Prompts of unequal lengths share a batch:
        those that are longer than the shortest are fed token by token from its length on.
        """
        results: list[list[int]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        size = self.batch_size or MAX_BATCH
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            self._continue(batch, prompts, n_new, has_ended, results)
        return results

    def _continue(
        self,
        batch: Sequence[int],
        prompts: Sequence[Sequence[int]],
        n_new: Sequence[int],
        has_ended: Callable[[int, list[int]], bool],
        results: list[list[int]],
    ) -> None:
        """Fill in the results of one batch, whose prompts are sorted by length."""
        device = self.model.wte.weight.device
        sequences = []
        for i in batch:
            n_kept = max(self.seq_len - n_new[i], self.seq_len // 2, 1)
            sequences.append(list(prompts[i][-n_kept:]))
        limits = [
            min(n_new[i], self.seq_len - len(sequence) + 1)
            for i, sequence in zip(batch, sequences, strict=True)
        ]
        open_rows = {row for row, limit in enumerate(limits) if limit > 0}
        length = min(map(len, sequences))
        n_positions = max(len(row) + n - 1 for row, n in zip(sequences, limits, strict=True))
        caches = self._caches(len(batch), max(n_positions, 1))
        decoder = None if caches is None else Decoder(self.model, caches, n_positions - length)
        fed = 0
        with autocast(device, self.precision):  # once: at its end it forgets the cast weights
            while open_rows:
                first = fed if decoder else 0
                padded = [(sequence + [0] * length)[first:length] for sequence in sequences]
                tokens_BT = torch.tensor(padded, device=device)
                if decoder:
                    logits_BV = decoder(tokens_BT)
                else:
                    logits_BV = self._logits(self.model.hidden(tokens_BT)[:, -1])
                next_tokens = logits_BV.argmax(-1).tolist()
                fed = length
                length += 1
                for row in sorted(open_rows):
                    if len(sequences[row]) > fed:
                        continue  # its prompt continues
                    sequences[row].append(next_tokens[row])
                    i = batch[row]
                    results[i].append(next_tokens[row])
                    if len(results[i]) == limits[row] or has_ended(i, results[i]):
                        open_rows.discard(row)

    def _caches(self, batch: int, length: int) -> list[Cache] | None:
        """Return empty caches; None for an attention without one, which computes all again."""
        try:
            return self.model.caches(batch, length, dtype_of(self.precision))
        except NotImplementedError:
            return None
