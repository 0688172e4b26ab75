"""What the forward pass keeps for the backward pass, in bytes, counted as autograd saves it."""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, UntypedStorage, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.tensor import DTensor


class Activations:
    """`with Activations(model) as kept: ...` round forward passes; the largest one counts.

    Afterwards `activation_bytes` (parameters are not counted; memory that several tensors share counts once) and
    `gathered_bytes` (the most that sharding made whole at any one time in a pass).
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._parameters: dict[int, UntypedStorage] = {}
        self._saved: dict[int, int] = {}
        self.activation_bytes = 0
        self.gathered_bytes = self._whole = 0

    def __enter__(self) -> "Activations":
        self._stack = ExitStack()
        for module in self._model.modules():
            self._stack.callback(module.register_forward_pre_hook(self._see_parameters).remove)
        self._stack.callback(self._model.register_forward_pre_hook(self._settle).remove)
        self._stack.enter_context(saved_tensors_hooks(self._pack, lambda tensor: tensor))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._settle()
        # Not looked up on entry: an evaluation before it may have left some parameters whole.
        own = dict(storage(parameter) for parameter in self._model.parameters())
        self.gathered_bytes = max(
            0, self._whole - sum(own[key] for key in own.keys() & self._parameters.keys())
        )
        self._parameters.clear()

    def _settle(self, *_: Any) -> None:
        kept = sum(size for key, size in self._saved.items() if key not in self._parameters)
        self.activation_bytes = max(self.activation_bytes, kept)
        self._saved.clear()

    def _see_parameters(self, module: nn.Module, _: Any) -> None:
        # Sharding puts whole parameters in place only while a block computes, so they are looked up when it begins.
        memories = [_memory(parameter) for parameter in module.parameters(recurse=False)]
        self._parameters.update((memory._cdata, memory) for memory in memories)
        self._whole = max(self._whole, sum(memory.nbytes() for memory in self._parameters.values()))

    def _pack(self, tensor: Tensor) -> Tensor:
        self._saved.update([storage(tensor)])
        return tensor


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the memory behind `tensors` on this rank; what is shared counts once."""
    return sum(dict(storage(tensor) for tensor in tensors).values())


def storage(tensor: Tensor) -> tuple[int, int]:
    """Return identity and bytes of the memory behind a tensor (also a meta one); of a sharded one, this rank's part."""
    memory = _memory(tensor)
    return memory._cdata, memory.nbytes()


def _memory(tensor: Tensor) -> UntypedStorage:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).untyped_storage()
