"""Measure the first step, which is not timed: FLOPs, attention kernels and memory."""

import math
from contextlib import ExitStack

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from harness.probes.activations import Activations, held_bytes
from harness.probes.allocator import AllocatorPeaks

ATTENTION_OPERATOR = "_scaled_dot_product"
_aten = torch.ops.aten


def _forward_flops(q: torch.Size, k: torch.Size, *_: object, **__: object) -> int:
    """Return the FLOPs of two products of (Tq, D) and (D, Tk) for each head, 2 per multiply-add."""
    return 4 * math.prod(q) * k[-2]


def _backward_flops(
    grad_out: torch.Size, q: torch.Size, k: torch.Size, *_: object, **__: object
) -> int:
    """Return the FLOPs of five products: recomputed scores, and gradients of q, k, v, scores."""
    return 10 * math.prod(q) * k[-2]


# PyTorch's counter knows CUDA's attention kernels but not the CPU's.
CPU_KERNELS = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _forward_flops,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward_flops,
}


class FirstStep:
    """Measure one whole step, which runs uncompiled: `with FirstStep(model, optimizer) as probe:`.

    Afterwards: `flops` (executed by this rank; a causal kernel counts the full square), `kernels`
    (names of the attention kernels; `math` if no fused kernel ran), `parameter_bytes` and
    `gradient_bytes` (at the optimizer step) and `activations`. The peak of training in `peaks`
    begins after the step.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, peaks: AllocatorPeaks
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self.peaks = peaks
        self.activations = Activations(model)
        self.flops = 0
        self.kernels: list[str] = []
        self.parameter_bytes = 0
        self.gradient_bytes = 0

    def __enter__(self) -> "FirstStep":
        self._stack = ExitStack()
        hook = self._optimizer.register_step_pre_hook(self.record_parameters)
        self._stack.callback(hook.remove)
        self._counter = FlopCounterMode(display=False, custom_mapping=CPU_KERNELS)
        self._stack.enter_context(self._counter)
        self._stack.enter_context(self.activations)
        self._stack.enter_context(torch.compiler.set_stance("force_eager"))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        counts = self._counter.get_flop_counts().get("Global", {})
        self.flops = sum(counts.values())
        operators = {str(operator).removeprefix("aten.") for operator in counts}
        attention = {name for name in operators if ATTENTION_OPERATOR in name}
        self.kernels = sorted(name for name in attention if "backward" not in name) or ["math"]
        self.peaks.restart()  # the run's peak excludes the probe's memory

    def record_parameters(self, *_: object) -> None:
        """Record the bytes of parameters and gradients at the beginning of the optimizer step."""
        gradients = [parameter.grad for parameter in self._model.parameters()]
        self.parameter_bytes = held_bytes(self._model.parameters())
        self.gradient_bytes = held_bytes(grad for grad in gradients if grad is not None)
