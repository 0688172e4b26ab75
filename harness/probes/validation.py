"""Per-token losses of a model on the validation windows of one sequence length."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from harness.data import batches as data
from harness.data.documents import contains, in_separators, spelled_separator
from harness.distributed.process_group import DistributedContext
from harness.model.precision import autocast
from harness.results.records import EvalWindows, RunSpec

# Of the windows in their order: every second one, so that both halves cover the whole text.
HALVES: Mapping[EvalWindows, slice] = {
    "all": slice(None),
    "tuning": slice(1, None, 2),
    "final": slice(0, None, 2),
}
MAX_TOKENS = 4096  # per forward pass, so that it needs less memory than a training step


class WindowLosses(NamedTuple):
    """Losses and targets (B, T), and the weight and the corpus of each window (B,).

    `separators_BT` marks targets that spell a separator and are not text.
    """

    losses_BT: Tensor
    targets_BT: Tensor
    weights: np.ndarray
    corpora: np.ndarray
    separators_BT: np.ndarray


class ValidationWindows:
    """Evenly spaced validation windows of one length, sharded over the ranks.

    They hold about `train.eval_tokens` tokens, and half of that in a study that tunes. `n_windows`
    is their number on all ranks together. In a mixture, a window has the weight that gives each
    corpus its share of their mean.
    """

    def __init__(self, spec: RunSpec, context: DistributedContext, length: int) -> None:
        eval_tokens = spec.train.eval_tokens
        self._device = context.device
        self._precision = spec.train.precision
        self._length = length
        self.tokens = data.Tokens(spec.launch.val_tokens)
        limit = None if eval_tokens == "all" else eval_tokens
        offsets, weights = data.mixture_evaluation_offsets(
            self.tokens, spec.launch.weights, length, limit, HALVES[spec.eval_windows]
        )
        self._batches = data.shard_eval_windows(
            offsets,
            context.data_parallel_rank,
            context.data_parallel_size,
            max(1, MAX_TOKENS // length),
            weights,
        )
        self.n_windows = len(offsets)
        separator = spelled_separator(spec.data.tokenizer)
        self._separator = separator if separator and contains(self.tokens, separator) else ()

    @torch.no_grad()
    def losses(self, model: nn.Module) -> Iterator["WindowLosses"]:
        """Yield the losses of each batch.

        Losses are in nats, float64; windows that pad a batch have weight 0. The model is in
        evaluation mode until the last batch. It runs uncompiled: batches differ in shape from
        those of training and from each other.
        """
        model.eval()
        for offsets, weights in self._batches:
            tokens_BT, targets_BT = self.tokens.windows(offsets, self._length)
            uncompiled = torch.compiler.set_stance("force_eager")
            with uncompiled, autocast(self._device, self._precision):
                losses_BT = model(tokens_BT.to(self._device), targets_BT.to(self._device))
            corpora = np.searchsorted(self.tokens.ranges[:, 1], offsets, side="right")
            separators_BT = in_separators(self.tokens, offsets, self._length, self._separator)
            yield WindowLosses(losses_BT.double(), targets_BT, weights, corpora, separators_BT)
        model.train()
