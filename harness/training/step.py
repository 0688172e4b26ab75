"""One training step: gradients of all micro-batches, clipping, and the optimizer step."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from harness.data.batches import Batches, micro_batch_size
from harness.data.prefetch import MicroBatches, Prefetch
from harness.distributed.process_group import DistributedContext
from harness.model.gpt import GPT
from harness.model.loss import mean_loss
from harness.model.precision import autocast
from harness.probes.timer import UNTIMED, StepTimer
from harness.results.records import TrainSettings
from harness.training import optimizer as optim
from harness.training.averaging import ParameterAverage
from variants.base import Parallelism


@dataclass(frozen=True)
class StepResult:
    """Mean loss over this rank's tokens, learning rate, and gradient norm before clipping."""

    rank_loss: Tensor
    lr: float
    grad_norm: Tensor


@dataclass(frozen=True)
class TrainStep:
    """`train_step(step)` trains on the batch of that step.

    `model` is `gpt` as the parallelism wrapped it.
    """

    gpt: GPT
    model: nn.Module
    parallelism: Parallelism
    optimizer: torch.optim.Optimizer
    batches: Batches
    context: DistributedContext
    settings: TrainSettings
    average: ParameterAverage | None = None

    def micro_batch_size(self, step: int) -> int:
        """Return the number of sequences in each micro-batch of a step."""
        n_local = self._n_sequences(step) // self.context.data_parallel_size
        return micro_batch_size(n_local, self.settings.micro_batch_size)

    def _n_sequences(self, step: int) -> int:
        return self.settings.tokens_at(step) // self.batches.seq_len

    @cached_property
    def _prefetch(self) -> Prefetch:
        return Prefetch(self._micro_batches, pin=self.context.device.type == "cuda")

    def _micro_batches(self, step: int) -> MicroBatches:
        return self.batches.micro_batches(
            step,
            self.context.data_parallel_rank,
            self.context.data_parallel_size,
            self.micro_batch_size(step),
            self._n_sequences(step),
        )

    def __call__(self, step: int, timer: StepTimer = UNTIMED) -> StepResult:
        """Make one step; `timer` sees its phases.

        If the gradient norm is not finite, parameters, their average and optimizer state stay.
        """
        rank_loss = self.forward_backward(step, timer)
        with timer.optimizer():
            lr = optim.set_learning_rate(self.optimizer, step, self.settings)
            grad_norm = optim.clip(self.gpt, self.settings.grad_clip)
            if grad_norm.isfinite():
                self.optimizer.step()
                if self.average is not None:
                    self.average.update(step + 1)
            self.optimizer.zero_grad()
        return StepResult(rank_loss, lr, grad_norm)

    def forward_backward(self, step: int, timer: StepTimer = UNTIMED) -> Tensor:
        """Accumulate the step's gradients; return the mean loss over this rank's tokens."""
        device = self.context.device
        with timer.data():
            micro_batches = self._prefetch(step)
        n = len(micro_batches)
        total = torch.zeros((), device=device)
        for i, (tokens_BT, targets_BT) in enumerate(micro_batches, start=1):
            inputs_BT = tokens_BT.to(device, non_blocking=True)
            labels_BT = targets_BT.to(device, non_blocking=True)
            with self.parallelism.gradient_sync(self.model, enabled=i == n):
                with autocast(device, self.settings.precision), timer.forward():
                    losses_BT = self.model(inputs_BT, labels_BT)
                loss = mean_loss(losses_BT) / n
                with timer.backward():
                    loss.backward()
            total += loss.detach()
        return total
