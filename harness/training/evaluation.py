"""Validation: the mean loss over one fixed list of windows, the same for every entry and every rank count."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from harness.data import batches as data
from harness.distributed.process_group import DistributedContext
from harness.model.precision import autocast
from harness.probes.timer import Timer
from harness.results.records import EvalRecord, RunSpec
from harness.results.store import Run

MAX_TOKENS = 16_384  # in one forward pass, so that logits stay small


class Windows:
    """Validation windows of one length, `train.eval_tokens` tokens in all, spread evenly; each rank has its share."""

    def __init__(self, spec: RunSpec, ranks: DistributedContext, length: int) -> None:
        cfg = spec.train
        self._device, self._precision, self._length = ranks.device, cfg.precision, length
        self._tokens = data.Tokens(spec.launch.val_tokens)
        limit = None if cfg.eval_tokens == "all" else cfg.eval_tokens
        offsets = data.evaluation_offsets(len(self._tokens), length, limit)
        self._share = data.shard_eval_windows(
            offsets,
            ranks.data_parallel_rank,
            ranks.data_parallel_size,
            max(1, MAX_TOKENS // length),
        )
        self.n_windows = len(offsets)  # of all ranks

    @torch.no_grad()
    def losses(self, model: nn.Module) -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
        """Yield for each batch the losses (B, T), nats, float64, the targets (B, T) and the windows' weights (B,).

        The model is in eval() until the last batch is done.
        """
        model.eval()
        for offsets, weights in self._share:
            tokens_BT, targets_BT = self._tokens.windows(offsets, self._length)
            with autocast(self._device, self._precision):
                losses_BT = model(tokens_BT.to(self._device), targets_BT.to(self._device))
            yield losses_BT.double(), targets_BT, weights
        model.train()


class Evaluation:
    """`evaluate(model, step, train_s)` appends a line to the run's eval.jsonl, and returns the validation loss.

    `total_s` sums the seconds that all evaluations took. `loss(model)` does the same and writes nothing down.
    """

    def __init__(self, run: Run, spec: RunSpec, ranks: DistributedContext) -> None:
        self._run, self._ranks, self._windows = run, ranks, Windows(spec, ranks, spec.model.seq_len)
        self._token_bytes = np.load(spec.launch.token_bytes)
        self._file = run.eval_file() if ranks.is_first else None
        self._timer, self.total_s = Timer(ranks.device), 0.0

    def __call__(self, model: nn.Module, step: int, train_s: float) -> float:
        """Evaluate after `step` steps, in nats per token and in bits per byte, summed in float64."""
        with self._timer:
            nats, n_tokens, n_bytes = self._sums(model)
        self.total_s += self._timer.seconds
        if self._file is not None:
            self._file.append(
                EvalRecord(
                    step=step,
                    val_loss=nats / n_tokens,
                    bits_per_byte=nats / n_bytes / math.log(2),
                    train_s=train_s,
                    eval_s=self._timer.seconds,
                )
            )
        return nats / n_tokens

    def loss(self, model: nn.Module) -> float:
        """Return the validation loss, in nats per token."""
        nats, n_tokens, _ = self._sums(model)
        return nats / n_tokens

    def _sums(self, model: nn.Module) -> list[float]:
        nats = n_tokens = n_bytes = 0.0
        for losses_BT, targets_BT, weights in self._windows.losses(model):
            nats += float(losses_BT.sum(1).cpu().numpy() @ weights)
            n_tokens += float(weights.sum()) * targets_BT.shape[1]
            n_bytes += float(self._token_bytes[targets_BT.numpy()].sum(1) @ weights)
            if self._ranks.is_first:
                self._run.touch()
        return self._ranks.sum(nats, n_tokens, n_bytes)
