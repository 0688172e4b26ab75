"""A stand-in for a CUDA graph on a CPU: records the operations of a step and runs them again.

Like a graph, it repeats operations with the integers and the memory that they had when they were
recorded, and runs no Python of the model. A step that depends on an integer of the host repeats
that of the first position.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

# Operations that copy values to the host or from it, or whose shapes depend on values. `lift_fresh`
# is that of `torch.tensor`.
WAITS = (
    "_local_scalar_dense",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "_unique2",
    "equal",
    "lift_fresh",
)


class Made(NamedTuple):
    """A tensor that the step makes: the number of a result."""

    number: int


class Static(NamedTuple):
    """A tensor that exists before the step; those of one step are numbered."""

    number: int


class Call(NamedTuple):
    """An operation and its flat arguments."""

    func: object
    operands: list
    structure: object


class Recorder(TorchDispatchMode):
    """Records the operations of a step, down to those of kernels, and undoes its changes.

    As in a capture of CUDA, a wait for the device raises a RuntimeError, and a copy from the host.
    """

    def __init__(self):
        super().__init__()
        self.calls = []
        self.statics = []
        self._numbers = {}  # of Static and Made, by identity
        self._results = []  # kept, so that no other tensor has the identity of one of them
        self._before = {}  # the contents of storages that exist before the step, by address

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "prim":
            return func(*args, **(kwargs or {}))
        leaves, structure = tree_flatten((args, kwargs or {}))
        self.check(func, leaves)
        self.calls.append(Call(func, [self.operand(leaf) for leaf in leaves], structure))
        self.save(func, args)
        results = func(*args, **(kwargs or {}))
        self.check(func, [*leaves, *tree_leaves(results)])
        for result in tree_leaves(results):
            self._numbers.setdefault(id(result), Made(len(self._results)))
            self._results.append(result)
        return results

    def check(self, func, leaves):
        """Raise an error if a graph cannot hold the operation."""
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        waits = name in WAITS or (name == "index" and any(x.dtype == torch.bool for x in tensors))
        if waits or len({x.device.type for x in tensors if x.dim()}) > 1:
            raise RuntimeError(f"{name}: operation not permitted when stream is capturing")

    def operand(self, leaf):
        """Return the number of a tensor, and any other argument itself."""
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) not in self._numbers:
            self._numbers[id(leaf)] = Static(len(self.statics))
            self.statics.append(leaf)
        return self._numbers[id(leaf)]

    def save(self, func, args):
        """Keep the contents of what the operation changes."""
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.is_write and isinstance(value, Tensor) and not value.is_meta:
                storage = value.untyped_storage()
                self._before.setdefault(storage._cdata, (storage, storage.clone()))

    def undo(self):
        """Restore the contents of all memory that the step has changed."""
        for storage, before in self._before.values():
            storage.copy_(before)

    def replay(self, output):
        """Run the operations; return the value that the tensor `output` has now."""
        results = []
        for call in self.calls:
            values = []
            for operand in call.operands:
                if isinstance(operand, Made):
                    operand = results[operand.number]
                elif isinstance(operand, Static):
                    operand = self.statics[operand.number]
                values.append(operand)
            args, kwargs = tree_unflatten(values, call.structure)
            results += tree_leaves(call.func(*args, **kwargs))
        return results[self._numbers[id(output)].number]


class Tape:
    """A graph of a CPU, as `harness.model.decoder.CudaGraph` is one of a GPU."""

    def __init__(self, device=None):
        self.recorder = Recorder()
        self.outputs = []

    def warm_up(self, step):
        step()

    def capture(self, step):
        with self.recorder:
            made = step()
        self.recorder.undo()
        output = torch.empty_like(made)

        def replay():
            output.copy_(self.recorder.replay(made))
            self.outputs.append(output)
            return output

        return replay
