"""Validation: the mean loss over one fixed list of windows, for every entry and world size."""

import math

import numpy as np
import torch
from torch import nn

from harness.distributed.process_group import DistributedContext
from harness.probes.timer import Timer
from harness.probes.validation import ValidationWindows
from harness.results.plausibility import implausible
from harness.results.records import EvalRecord, RunSpec
from harness.results.store import Run
from harness.training.averaging import ParameterAverage


class Evaluation:
    """`evaluate(model, step, train_s, average)` records and returns the validation loss.

    `evaluate.loss(model)` returns the loss only. `total_s` is the time of all recorded evaluations,
    in seconds.
    """

    def __init__(self, run: Run, spec: RunSpec, context: DistributedContext) -> None:
        self._run = run
        self._spec = spec
        self._context = context
        self._windows = ValidationWindows(spec, context, spec.model.seq_len)
        self._token_bytes = np.load(spec.launch.token_bytes)
        self._file = run.eval_file() if context.is_first else None
        self._timer = Timer(context.device)
        self.total_s = 0.0

    def __call__(
        self,
        model: nn.Module,
        step: int,
        train_s: float,
        average: ParameterAverage | None = None,
    ) -> float:
        """Append nats per token and bits per byte to the run's eval.jsonl, summed in float64.

        Tokens without bytes, which separate texts, count in the former only. The loss of the
        `average` of the parameters is recorded beside that of the parameters.
        """
        ema_val_loss = None
        with self._timer:
            nats, text_nats, n_tokens, n_bytes = self._sums(model)
            if average is not None:
                with average.applied():
                    ema_val_loss = self.loss(model)
        self.total_s += self._timer.seconds
        if self._file is not None:
            record = EvalRecord(
                step=step,
                val_loss=nats / n_tokens,
                ema_val_loss=ema_val_loss,
                bits_per_byte=text_nats / n_bytes / math.log(2) if n_bytes else None,
                train_s=train_s,
                eval_s=self._timer.seconds,
            )
            self._file.append(record)
            self._warn(record)
        return nats / n_tokens

    def _warn(self, record: EvalRecord) -> None:
        """Print a warning for each implausible loss of an evaluation."""
        for finding in implausible(
            self._spec, [record.step], [record.val_loss], [record.bits_per_byte]
        ):
            print(f"WARNING: after {record.step} steps: {finding.message}")

    def loss(self, model: nn.Module) -> float:
        """Return the validation loss in nats per token."""
        nats, _, n_tokens, _ = self._sums(model)
        return nats / n_tokens

    def _sums(self, model: nn.Module) -> list[float]:
        """Return nats, nats of the tokens that have bytes, tokens, and bytes, over all ranks."""
        nats = 0.0
        n_tokens = 0.0
        text_nats = 0.0
        n_bytes = 0.0
        for losses_BT, targets_BT, weights in self._windows.losses(model):
            losses_BT = losses_BT.cpu()
            bytes_BT = self._token_bytes[targets_BT.numpy()]
            is_text_BT = torch.from_numpy(bytes_BT > 0)
            nats += float(losses_BT.sum(1).numpy() @ weights)
            n_tokens += float(weights.sum()) * targets_BT.shape[1]
            text_nats += float((losses_BT * is_text_BT).sum(1).numpy() @ weights)
            n_bytes += float(bytes_BT.sum(1) @ weights)
            if self._context.is_first:
                self._run.touch()
        return self._context.sum(nats, text_nats, n_tokens, n_bytes)
