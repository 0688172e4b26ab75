"""Where the time of a step goes: forward, backward, optimizer, and what stands still for communication."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import _functional_collectives as functional

FORWARD, BACKWARD, OPTIMIZER, WAITING, OTHER = PHASES = (
    "forward",
    "backward",
    "optimizer",
    "waiting",
    "other",
)


class Phases:
    """`phases.step(forward_backward, update)` makes one step and returns the seconds of each phase; they sum to it all.

    `waiting` is the exposed wait: the time in which the rank's own thread does nothing but wait for a collective, for
    slower ranks as well as for bytes. Communication that computation hides is not in it. It is measured where the
    thread waits: in `Work.wait` and `wait_tensor`, which end what FSDP2, DTensor and `torch.distributed` begin, and,
    for DDP, whose reducer waits in C++, from the last gradient's arrival to the end of the backward pass. The other
    phases are less their waits; `other` is what lies between them, such as the copy of a batch. On CUDA no thread waits
    but the device's queue does; there `waiting` is None, not known, and a phase holds what it waits for.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model, self._device = model, device
        self._cuda = device.type == "cuda"
        self._several = dist.get_world_size() > 1

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def step(
        self, forward_backward: Callable[[], object], update: Callable[[], object]
    ) -> dict[str, float | None]:
        """Make one step of two parts, and return {phase: seconds}."""
        self._seconds = dict.fromkeys(PHASES, 0.0)
        with ExitStack() as stack:
            self._hook(stack)
            self._phase, self._since, self._waited = OTHER, self._now(), 0.0
            forward_backward()
            self._enter(OPTIMIZER)
            update()
            self._enter(OTHER)
        return self._seconds | ({WAITING: None} if self._cuda and self._several else {})

    def _enter(self, phase: str) -> None:
        now = self._now()
        self._seconds[self._phase] += now - self._since - self._waited
        self._seconds[WAITING] += self._waited
        self._phase, self._since, self._waited = phase, now, 0.0

    def _hook(self, stack: ExitStack) -> None:
        before = self._model.register_forward_pre_hook(
            lambda *_: self._enter(FORWARD), prepend=True
        )
        after = self._model.register_forward_hook(lambda *_: self._enter(OTHER))
        stack.callback(before.remove)
        stack.callback(after.remove)
        stack.enter_context(patch.object(Tensor, "backward", self._backward(Tensor.backward)))
        if self._several and not self._cuda:
            stack.enter_context(patch.object(dist.Work, "wait", self._wait(dist.Work.wait)))
            stack.enter_context(
                patch.object(functional, "wait_tensor", self._wait(functional.wait_tensor))
            )
            for parameter in self._model.parameters():
                stack.callback(
                    parameter.register_post_accumulate_grad_hook(self._see_gradient).remove
                )

    def _backward(self, backward: Callable[..., None]) -> Callable[..., None]:
        def timed(*args: Any, **kwargs: Any) -> None:
            self._enter(BACKWARD)
            self._last: float | None = None
            backward(*args, **kwargs)
            if self._last is not None:
                # A wait that was seen since is a part of it.
                self._waited = self._waited_at_last + time.perf_counter() - self._last
            self._enter(OTHER)

        return timed

    def _see_gradient(self, _: Tensor) -> None:
        self._last, self._waited_at_last = time.perf_counter(), self._waited

    def _wait(self, wait: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self._waiting():
                return wait(*args, **kwargs)

        return timed

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        start, before = time.perf_counter(), self._waited
        yield
        self._waited = before + time.perf_counter() - start  # one wait may end by way of another
