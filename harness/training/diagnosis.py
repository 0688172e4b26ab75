"""Find where a value that is not finite arose: the step's batch once more, with hooks."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from harness.distributed.process_group import DistributedContext
from harness.model.gpt import GPT
from variants.dtensor import local

N_LISTED = 5  # modules before the place, whose largest outputs are listed


@dataclass(frozen=True, order=True)
class Place:
    """Where a rank saw the first value that is not finite. Places compare by their order in time.

    `trail` has a line for each of the last modules before it with its largest output.
    """

    micro_batch: int
    is_backward: bool
    position: int
    value: str
    trail: tuple[str, ...] = field(default=(), compare=False)


def diagnose(
    gpt: GPT, forward_backward: Callable[[], object], context: DistributedContext
) -> tuple[str, tuple[str, ...]]:
    """Repeat a step's passes; return the first value that is not finite, and lines for the log.

    Every rank calls this. `forward_backward` accumulates gradients, which are discarded. Neither
    parameters nor optimizer state change.
    """
    parameters = [name for name, value in gpt.named_parameters() if not _is_finite(value)]
    damaged = sorted(context.gather(parameters), key=len)[-1]
    if damaged:
        n_more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        return f"parameter {damaged[0]}{n_more} was not finite before the step", ()
    gpt.zero_grad()
    watch = _Watch(gpt)
    with watch, torch.compiler.set_stance("force_eager"):
        forward_backward()
    place = watch.first or watch.place_in_parameters()
    gpt.zero_grad()
    places = context.gather(place)
    found = [(place, rank) for rank, place in enumerate(places) if place is not None]
    if not found:
        reason = "the model keeps state between passes, or is not deterministic"
        return f"a second pass over the same batch is finite: {reason}", ()
    first, rank = min(found)
    where = [f"in the {'backward' if first.is_backward else 'forward'} pass"]
    if watch.n_micro_batches > 1:
        where.append(f"of micro-batch {first.micro_batch} of {watch.n_micro_batches}")
    if context.world_size > 1:
        where.append(f"on rank {rank}")
    return f"the first value that is not finite is {first.value}, {' '.join(where)}", first.trail


class _Watch:
    """Check the inputs and outputs of all modules, and their gradients: `with _Watch(model)`."""

    def __init__(self, gpt: GPT) -> None:
        self._gpt = gpt
        self.first: Place | None = None
        self.n_micro_batches = 0
        self._position = 0
        self._trail: deque[str] = deque(maxlen=N_LISTED)
        self._first_gradient: tuple[int, Tensor] | None = None

    def __enter__(self) -> "_Watch":
        self._stack = ExitStack()
        for path, module in self._gpt.named_modules():
            name = f"{path or 'the model'} ({type(module).__name__})"
            before = module.register_forward_pre_hook(self._before(name), with_kwargs=True)
            after = module.register_forward_hook(self._after(name))
            self._stack.callback(before.remove)
            self._stack.callback(after.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _before(self, name: str) -> Callable[..., None]:
        def check(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            if module is self._gpt:
                self.n_micro_batches += 1
            for tensor in _tensors((args, kwargs)):
                self._check(tensor, f"the input of {name}")

        return check

    def _after(self, name: str) -> Callable[..., None]:
        def check(module: nn.Module, args: tuple[object, ...], output: object) -> None:
            for tensor in _tensors(output):
                self._check(tensor, f"the output of {name}")
                if self.first is None:
                    largest = tensor.detach().abs().max().item() if tensor.numel() else 0.0
                    self._trail.append(f"largest output of {name}: {largest:.3e}")

        return check

    def _check(self, tensor: Tensor, value: str) -> None:
        self._position += 1
        if self.first is None and not _is_finite(tensor):
            self._record(value, is_backward=False)
        if tensor.requires_grad:
            key = id(tensor)
            tensor.register_hook(lambda gradient: self._check_gradient(gradient, value, key))

    def _check_gradient(self, gradient: Tensor, value: str, key: int) -> None:
        """Record the first gradient; a later hook of the same tensor is that of its consumer."""
        self._position += 1
        is_same = self._first_gradient is not None and (
            self._first_gradient[0] == key and self._first_gradient[1] is gradient
        )
        if is_same or (self.first is None and not _is_finite(gradient)):
            self._first_gradient = (key, gradient)
            self._record(f"the gradient of {value}", is_backward=True)

    def _record(self, value: str, is_backward: bool) -> None:
        trail = () if is_backward else tuple(self._trail)
        self.first = Place(self.n_micro_batches, is_backward, self._position, value, trail)

    def place_in_parameters(self) -> Place | None:
        """Return the last parameter whose gradient is not finite: the first in the pass."""
        for name, parameter in reversed(list(self._gpt.named_parameters())):
            if parameter.grad is not None and not _is_finite(parameter.grad):
                value = f"the gradient of the parameter {name}"
                return Place(self.n_micro_batches, True, self._position + 1, value)
        return None


def _tensors(value: object) -> Iterator[Tensor]:
    """Yield the floating-point tensors in nested lists, tuples and mappings."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _is_finite(tensor: Tensor) -> bool:
    return bool(local(tensor).detach().isfinite().all())
