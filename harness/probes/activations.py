"""Bytes that the forward pass keeps for the backward pass, counted as autograd saves them."""

from collections.abc import Iterable
from contextlib import ExitStack

from torch import Tensor, UntypedStorage, nn
from torch.autograd.graph import saved_tensors_hooks

from harness.distributed.torch_internals import storage_id
from variants.dtensor import local


class Activations:
    """Count during forward passes: `with Activations(model) as activations: ...`.

    Afterwards `saved_bytes` is the most that a pass saved, without parameters; memory that several
    tensors share counts once. `gathered_bytes` is the peak bytes of parameters all-gathered at once
    during a pass.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._parameters: dict[int, UntypedStorage] = {}  # by storage id, during the pass
        self._saved: dict[int, int] = {}  # bytes by storage id
        self._peak_parameter_bytes = 0
        self.saved_bytes = 0
        self.gathered_bytes = 0

    def __enter__(self) -> "Activations":
        self._stack = ExitStack()
        for module in self._model.modules():
            self._stack.callback(module.register_forward_pre_hook(self._note_parameters).remove)
        self._stack.callback(self._model.register_forward_pre_hook(self._finish_pass).remove)
        self._stack.enter_context(saved_tensors_hooks(self._note_saved, lambda tensor: tensor))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._finish_pass()
        # Looked up only here: an evaluation before may have left some parameters gathered on entry.
        own_bytes = dict(_storage_size(parameter) for parameter in self._model.parameters())
        shared_ids = own_bytes.keys() & self._parameters.keys()
        own_peak_bytes = sum(own_bytes[key] for key in shared_ids)
        self.gathered_bytes = max(0, self._peak_parameter_bytes - own_peak_bytes)
        self._parameters.clear()

    def _finish_pass(self, *_: object) -> None:
        kept = [size for key, size in self._saved.items() if key not in self._parameters]
        self.saved_bytes = max(self.saved_bytes, sum(kept))
        self._saved.clear()

    def _note_parameters(self, module: nn.Module, _: object) -> None:
        # FSDP gathers parameters only while a block computes, so they are looked up when it starts.
        for parameter in module.parameters(recurse=False):
            storage = _storage(parameter)
            self._parameters[storage_id(storage)] = storage
        total_bytes = sum(storage.nbytes() for storage in self._parameters.values())
        self._peak_parameter_bytes = max(self._peak_parameter_bytes, total_bytes)

    def _note_saved(self, tensor: Tensor) -> Tensor:
        key, size = _storage_size(tensor)
        self._saved[key] = size
        return tensor


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the storages of `tensors` on this rank; a shared storage counts once."""
    return sum(dict(_storage_size(tensor) for tensor in tensors).values())


def _storage_size(tensor: Tensor) -> tuple[int, int]:
    """Return id and bytes of a tensor's storage; of a `DTensor`, those of the local shard."""
    storage = _storage(tensor)
    return storage_id(storage), storage.nbytes()


def _storage(tensor: Tensor) -> UntypedStorage:
    return local(tensor).untyped_storage()
