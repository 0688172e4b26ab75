"""Count, in the first step, which is never timed: FLOPs, the attention kernels that ran, and bytes."""

import math
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from harness.probes.activations import Activations, held_bytes

KERNEL = "_scaled_dot_product"
Size = torch.Size
_aten = torch.ops.aten


def _forward_flops(q: Size, k: Size, *_: Any, **__: Any) -> int:
    return (
        4 * math.prod(q) * k[-2]
    )  # two products of (Tq, D) with (D, Tk), 2 FLOPs a multiply-add, for each head


def _backward_flops(grad_out: Size, q: Size, k: Size, *_: Any, **__: Any) -> int:
    return (
        10 * math.prod(q) * k[-2]
    )  # five products: the scores once more, and the gradients of q, k, v and scores


# PyTorch's counter knows the kernels of CUDA, and not the CPU's.
CPU_KERNELS = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _forward_flops,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward_flops,
}


class FirstStep:
    """`with FirstStep(model, optimizer): ...` round a whole step, which then runs without compilation.

    Afterwards: `flops` (of this rank, as executed: a causal kernel counts the full square), `kernels` (names of the
    attention kernels; `math` if there was no fused one), `parameter_bytes` and `gradient_bytes` (as the optimizer finds
    them) and `kept`.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._model, self._optimizer = model, optimizer
        self.kept = Activations(model)
        self.flops = 0
        self.kernels: list[str] = []
        self.parameter_bytes = self.gradient_bytes = 0

    def __enter__(self) -> "FirstStep":
        self._stack = ExitStack()
        self._stack.callback(self._optimizer.register_step_pre_hook(self.record_parameters).remove)
        self._counter = self._stack.enter_context(
            FlopCounterMode(display=False, custom_mapping=CPU_KERNELS)
        )
        self._stack.enter_context(self.kept)
        self._stack.enter_context(torch.compiler.set_stance("force_eager"))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        counts: dict[Any, int] = self._counter.get_flop_counts().get("Global", {})
        self.flops = sum(counts.values())
        names = {str(op).removeprefix("aten.") for op in counts}
        self.kernels = sorted(
            name for name in names if KERNEL in name and "backward" not in name
        ) or ["math"]
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()  # what the counting took is no part of the run's peak

    def record_parameters(self, *_: Any) -> None:
        """Count what the optimizer finds: parameters and gradients as they are when it begins."""
        self.parameter_bytes = held_bytes(self._model.parameters())
        self.gradient_bytes = held_bytes(
            p.grad for p in self._model.parameters() if p.grad is not None
        )
