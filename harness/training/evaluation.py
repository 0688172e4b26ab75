"""Validation: the mean loss over one fixed list of windows, for every entry and world size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from harness.data.batches import Tokens
from harness.distributed.process_group import DistributedContext
from harness.probes.allocator import AllocatorPeaks
from harness.probes.timer import Timer
from harness.probes.validation import ValidationWindows
from harness.results.plausibility import implausible
from harness.results.records import CorpusLoss, EvalRecord, RunSpec
from harness.results.run import Run
from harness.training.averaging import ParameterAverage


@dataclass
class LossSums:
    """Nats, nats of the tokens that have bytes, number of tokens, and of bytes."""

    nats: float = 0.0
    text_nats: float = 0.0
    n_tokens: float = 0.0
    n_bytes: float = 0.0

    def add(self, losses_BT: Tensor, bytes_BT: np.ndarray, weights: np.ndarray) -> None:
        """Add the losses and bytes of the tokens of windows, by the weight of each."""
        is_text_BT = torch.from_numpy(bytes_BT > 0)
        self.nats += float(losses_BT.sum(1).numpy() @ weights)
        self.n_tokens += float(weights.sum()) * losses_BT.shape[1]
        self.text_nats += float((losses_BT * is_text_BT).sum(1).numpy() @ weights)
        self.n_bytes += float(bytes_BT.sum(1) @ weights)

    @property
    def values(self) -> tuple[float, float, float, float]:
        """The four sums."""
        return self.nats, self.text_nats, self.n_tokens, self.n_bytes

    @property
    def val_loss(self) -> float:
        """The mean in nats per token."""
        return self.nats / self.n_tokens

    @property
    def bits_per_byte(self) -> float | None:
        """The mean in bits per byte of text; None without text."""
        return self.text_nats / self.n_bytes / math.log(2) if self.n_bytes else None


class Evaluation:
    """`evaluate(model, step, train_s, average)` records and returns the validation loss.

    `evaluate.loss(model)` returns the loss only. `total_s` is the time of all recorded evaluations,
    in seconds, `peaks` has the memory of evaluations and of what runs between them.
    """

    def __init__(self, run: Run, spec: RunSpec, context: DistributedContext) -> None:
        self._run = run
        self._spec = spec
        self._context = context
        self._windows = ValidationWindows(spec, context, spec.model.seq_len)
        self._token_bytes = np.load(spec.launch.token_bytes)
        self._file = run.eval_file() if context.is_first else None
        self._timer = Timer(context.device)
        self.peaks = AllocatorPeaks(context.device)
        self.total_s = 0.0

    def __call__(
        self,
        model: nn.Module,
        step: int,
        train_s: float,
        average: ParameterAverage | None = None,
    ) -> float:
        """Append nats per token and bits per byte to the run's eval.jsonl, summed in float64.

        Separators of texts count in the former only, also if several tokens spell one. The loss of
        the `average` of the parameters is recorded as well.
        """
        ema_val_loss = None
        with self._timer:
            sums, *corpus_sums = self._sums(model)
            if average is not None:
                with average.applied():
                    ema_val_loss = self.loss(model)
        self.total_s += self._timer.seconds
        if self._file is not None:
            record = EvalRecord(
                step=step,
                val_loss=sums.val_loss,
                ema_val_loss=ema_val_loss,
                bits_per_byte=self._bits_per_byte(sums, corpus_sums),
                train_s=train_s,
                eval_s=self._timer.seconds,
                by_corpus=[
                    CorpusLoss(
                        corpus=part.path,
                        val_loss=part_sums.val_loss,
                        bits_per_byte=part_sums.bits_per_byte,
                    )
                    for part, part_sums in zip(self._spec.launch.mixture, corpus_sums, strict=True)
                ],
            )
            self._file.append(record)
            self._warn(record)
        return sums.val_loss

    @property
    def tokens(self) -> Tokens:
        """The validation tokens."""
        return self._windows.tokens

    def _bits_per_byte(self, sums: LossSums, corpora: Sequence[LossSums]) -> float | None:
        """Return the mean of a mixture's corpora by their shares, whatever their tokens per byte.

        The mean over all bytes would weight the corpora differently under each tokenizer.
        """
        if not corpora:
            return sums.bits_per_byte
        mean = 0.0
        for part, share in zip(corpora, self._spec.launch.weights, strict=True):
            if part.bits_per_byte is None:
                return None
            mean += share * part.bits_per_byte
        return mean

    def _warn(self, record: EvalRecord) -> None:
        """Print a warning for each implausible loss of an evaluation."""
        for finding in implausible(
            self._spec, [record.step], [record.val_loss], [record.bits_per_byte]
        ):
            print(f"WARNING: after {record.step} steps: {finding.message}")

    def loss(self, model: nn.Module) -> float:
        """Return the validation loss in nats per token."""
        return self._sums(model)[0].val_loss

    def _sums(self, model: nn.Module) -> list["LossSums"]:
        """Return the sums over all ranks, by the weights of windows, and of each corpus."""
        n_corpora = len(self._spec.launch.mixture)
        sums = [LossSums() for _ in range(1 + n_corpora)]
        with self.peaks.evaluating():
            for batch in self._windows.losses(model):
                losses_BT = batch.losses_BT.cpu()
                bytes_BT = self._token_bytes[batch.targets_BT.numpy()]
                bytes_BT[batch.separators_BT] = 0
                sums[0].add(losses_BT, bytes_BT, batch.weights)
                for i in range(n_corpora):
                    sums[1 + i].add(losses_BT, bytes_BT, batch.weights * (batch.corpora == i))
                if self._context.is_first:
                    self._run.touch()
        values = self._context.sum(*(value for part in sums for value in part.values))
        return [LossSums(*values[i : i + 4]) for i in range(0, len(values), 4)]
