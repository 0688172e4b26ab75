"""Count, in the first step, which is never timed: FLOPs, the attention kernels that ran, and activation bytes."""

import math
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.tensor import DTensor
from torch.utils.flop_counter import FlopCounterMode

Size = torch.Size
KERNEL = "_scaled_dot_product"
_aten = torch.ops.aten


def _forward_flops(q: Size, k: Size, *_: Any, **__: Any) -> int:
    return 4 * math.prod(q) * k[-2]  # two products of (Tq, D) with (D, Tk), 2 FLOPs a multiply-add, for each head


def _backward_flops(grad_out: Size, q: Size, k: Size, *_: Any, **__: Any) -> int:
    return 10 * math.prod(q) * k[-2]  # five products: the scores once more, and the gradients of q, k, v and scores


# PyTorch's counter knows the kernels of CUDA, and not the CPU's.
CPU_KERNELS = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _forward_flops,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward_flops,
}


class FirstStep:
    """`with FirstStep(model, optimizer): ...` round a whole step, which then runs without compilation.

    Afterwards: `flops` (of this rank, as executed: a causal kernel counts the full square), `kernels` (names of the
    attention kernels; `math` if there was no fused one), `activation_bytes` (kept for the backward pass, the largest
    micro-batch; parameters are not counted), `gathered_bytes` (parameters made whole for a while by sharding) and
    `gradient_bytes` (as the optimizer finds them).
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        self._model, self._optimizer = model, optimizer
        self.flops = 0
        self.kernels: list[str] = []
        self.activation_bytes = 0
        self.gathered_bytes = 0
        self.gradient_bytes = 0
        self._parameters: dict[int, int] = {}
        self._saved: dict[int, int] = {}

    def __enter__(self) -> "FirstStep":
        self._stack = ExitStack()
        self._own = {storage(p)[0] for p in self._model.parameters()}
        for module in self._model.modules():
            self._stack.callback(module.register_forward_pre_hook(self._see_parameters).remove)
        self._stack.callback(self._model.register_forward_pre_hook(self._new_micro_batch).remove)
        if self._optimizer is not None:
            self._stack.callback(self._optimizer.register_step_pre_hook(self._see_gradients).remove)
        self._counter = self._stack.enter_context(FlopCounterMode(display=False, custom_mapping=CPU_KERNELS))
        self._stack.enter_context(saved_tensors_hooks(self._pack, lambda tensor: tensor))
        self._stack.enter_context(torch.compiler.set_stance("force_eager"))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._settle()
        counts: dict[Any, int] = self._counter.get_flop_counts().get("Global", {})
        self.flops = sum(counts.values())
        names = {str(op).removeprefix("aten.") for op in counts}
        self.kernels = sorted(name for name in names if KERNEL in name and "backward" not in name) or ["math"]
        self.gathered_bytes = sum(size for key, size in self._parameters.items() if key not in self._own)

    def _new_micro_batch(self, module: nn.Module, args: Any) -> None:
        self._settle()

    def _settle(self) -> None:
        kept = sum(size for key, size in self._saved.items() if key not in self._parameters)
        self.activation_bytes = max(self.activation_bytes, kept)
        self._saved.clear()

    def _see_parameters(self, module: nn.Module, args: Any) -> None:
        # Sharding puts whole parameters in place only for the forward pass, so they are looked up when it begins.
        self._parameters.update(storage(p) for p in module.parameters(recurse=False))

    def _see_gradients(self, *_: Any) -> None:
        self.gradient_bytes = held_bytes(p.grad for p in self._model.parameters() if p.grad is not None)

    def _pack(self, tensor: Tensor) -> Tensor:
        key, size = storage(tensor)
        self._saved[key] = size
        return tensor


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the memory behind `tensors` on this rank; what is shared counts once."""
    return sum(dict(storage(tensor) for tensor in tensors).values())


def storage(tensor: Tensor) -> tuple[int, int]:
    """Return identity and bytes of the memory behind a tensor (also a meta one); of a sharded one, this rank's part."""
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    memory = local.untyped_storage()
    return memory._cdata, memory.nbytes()
