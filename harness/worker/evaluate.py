"""Validation: the mean loss over one fixed list of windows, the same for every entry and every rank count."""

from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import nn

from harness.spec import RunSpec
from harness.store import Run
from harness.worker import data
from harness.worker.probes.timer import Timer
from harness.worker.ranks import Ranks

MAX_TOKENS = 16_384  # in one forward pass, so that logits stay small


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Compute matrix products in bf16 where `precision` asks for it; losses and norms stay in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


class Evaluation:
    """`evaluate(model, step, train_s)` appends a line to the run's eval.jsonl, and returns the validation loss.

    `total_s` sums the seconds that all evaluations took.
    """

    def __init__(self, run: Run, spec: RunSpec, ranks: Ranks) -> None:
        cfg, seq_len = spec.train, spec.model.seq_len
        self._ranks, self._precision, self._seq_len = ranks, cfg.precision, seq_len
        self._tokens = data.Tokens(spec.launch.val_tokens)
        self._token_bytes = np.load(spec.launch.token_bytes)
        limit = None if cfg.eval_tokens == "all" else cfg.eval_tokens
        offsets = data.evaluation_offsets(len(self._tokens), seq_len, limit)
        self._share = data.rank_share(offsets, ranks.rank, ranks.n_ranks, max(1, MAX_TOKENS // seq_len))
        self._file = run.eval_file() if ranks.is_first else None
        self._timer, self.total_s = Timer(ranks.device), 0.0

    @torch.no_grad()
    def __call__(self, model: nn.Module, step: int, train_s: float) -> float:
        """Evaluate after `step` steps, in nats per token and in bits per byte, summed in float64."""
        nats = n_tokens = n_bytes = 0.0
        model.eval()
        with self._timer:
            for offsets, weights in self._share:
                tokens_BT, targets_BT = self._tokens.windows(offsets, self._seq_len)
                with autocast(self._ranks.device, self._precision):
                    losses_BT = model(tokens_BT.to(self._ranks.device), targets_BT.to(self._ranks.device))
                nats += float(losses_BT.double().sum(1).cpu().numpy() @ weights)
                n_tokens += float(weights.sum()) * self._seq_len
                n_bytes += float(self._token_bytes[targets_BT.numpy()].sum(1) @ weights)
            nats, n_tokens, n_bytes = self._ranks.sum(nats, n_tokens, n_bytes)
        model.train()
        self.total_s += self._timer.seconds
        if self._file is not None:
            self._file.append(
                {
                    "step": step,
                    "val_loss": nats / n_tokens,
                    "bits_per_byte": nats / n_bytes / np.log(2),
                    "train_s": train_s,
                    "eval_s": self._timer.seconds,
                }
            )
        return nats / n_tokens
