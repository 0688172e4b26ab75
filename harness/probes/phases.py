"""Time of a step by phase: forward, backward, optimizer, and exposed communication."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from harness.distributed.torch_internals import observe_waits
from harness.probes.timer import StepTimer, synchronized_time
from harness.results.records import PHASES, Phase


class PhaseTimer(StepTimer):
    """Measure one step: `with timer: step(timer)`; then `timer.seconds` maps each phase to seconds.

    The phases sum to the step's time. `other` is the time outside the scopes, such as copying a
    batch to the device. `waiting` is the exposed communication: the time that the rank's thread
    blocks in a collective, on data or on a slower rank. Overlapped communication is not counted,
    and the other phases exclude their waits. Waits are observed in `Work.wait` and `wait_tensor`.
    DDP's reducer waits in C++ instead; its wait lasts from the arrival of the last gradient to the
    end of the backward pass. On CUDA the device's queue waits, not the thread: `waiting` is None if
    there are several ranks, and waits are part of each phase. `data_s` is the time that the rank's
    thread waits for the step's tokens, which is part of `other`.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._is_distributed = dist.get_world_size() > 1
        self._observes_waits = self._is_distributed and device.type != "cuda"
        self.seconds: dict[Phase, float | None] = {}
        self.data_s = 0.0

    def __enter__(self) -> "PhaseTimer":
        self._stack = ExitStack()
        if self._observes_waits:
            self._stack.enter_context(observe_waits(self._wait))
            for parameter in self._model.parameters():
                hook = parameter.register_post_accumulate_grad_hook(self._note_gradient)
                self._stack.callback(hook.remove)
        self._totals: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        self._phase: Phase = "other"
        self._waited_s = 0.0  # in the current phase
        self._phase_start = synchronized_time(self._device)
        return self

    def __exit__(self, *_: object) -> None:
        self._enter("other")
        self._stack.close()
        self.seconds = dict(self._totals)
        if self._is_distributed and not self._observes_waits:
            self.seconds["waiting"] = None

    @contextmanager
    def data(self) -> Iterator[None]:
        """Enclose the wait for the step's tokens."""
        start = time.perf_counter()
        yield
        self.data_s += time.perf_counter() - start

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Enclose the forward pass of one micro-batch."""
        self._enter("forward")
        yield
        self._enter("other")

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Enclose the backward pass of one micro-batch."""
        self._enter("backward")
        self._last_gradient: float | None = None  # time of its arrival
        yield
        if self._last_gradient is not None:
            # Replaces the waits that were observed since then, which are part of it.
            self._waited_s = self._waited_before + time.perf_counter() - self._last_gradient
        self._enter("other")

    @contextmanager
    def optimizer(self) -> Iterator[None]:
        """Enclose clipping and the optimizer step."""
        self._enter("optimizer")
        yield
        self._enter("other")

    def _enter(self, phase: Phase) -> None:
        now = synchronized_time(self._device)
        self._totals[self._phase] += now - self._phase_start - self._waited_s
        self._totals["waiting"] += self._waited_s
        self._phase = phase
        self._phase_start = now
        self._waited_s = 0.0

    def _note_gradient(self, _: Tensor) -> None:
        self._last_gradient = time.perf_counter()
        self._waited_before = self._waited_s

    @contextmanager
    def _wait(self) -> Iterator[None]:
        start = time.perf_counter()
        waited_before = self._waited_s
        yield
        # Not `+=`: a wait may call another, which is part of it.
        self._waited_s = waited_before + time.perf_counter() - start
