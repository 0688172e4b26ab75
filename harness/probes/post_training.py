"""A few steps more, after all that is kept was written: where the time goes, and what the ranks tell each other."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn

from harness.distributed.process_group import DistributedContext
from harness.probes.communication import Traffic
from harness.probes.phases import PHASES, Phases
from harness.results.store import Run

N_TIMED = 3


@dataclass(frozen=True)
class PostTrainingProbe:
    """The run's own step, in the two parts of which it is made, for `measure` to repeat.

    It goes on training the run's model, so that it costs no memory: nothing may read the parameters afterwards.
    """

    model: nn.Module
    ranks: DistributedContext
    forward_backward: Callable[[int], object]  # of the step of that number
    update: Callable[[int], object]

    def measure(self, first: int, run: Run, trace: bool) -> dict[str, Any]:
        """Make steps from `first` on; return `phases` and `traffic`, lists with an item for each rank.

        With `trace`, each rank also writes one step as a Chrome trace.
        """
        steps = iter(range(first, first + N_TIMED + 3))
        self._step(next(steps))  # what came before was no training: memory and caches settle
        timed = [self._timed(step) for step in islice(steps, N_TIMED)]
        with torch.compiler.set_stance("force_eager"), Traffic() as traffic:
            self._step(next(steps))
        if trace:
            self._trace(next(steps), run)
        phases = {f"{phase}_s": [seconds[phase] for seconds in timed] for phase in PHASES}
        return {"phases": self.ranks.gather(phases), "traffic": self.ranks.gather(traffic.calls)}

    def _step(self, step: int) -> None:
        self.forward_backward(step)
        self.update(step)

    def _timed(self, step: int) -> dict[str, float | None]:
        self.ranks.gather(None)  # as the loop does after each step: all begin together
        return Phases(self.model, self.ranks.device).step(
            lambda: self.forward_backward(step), lambda: self.update(step)
        )

    def _trace(self, step: int, run: Run) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.ranks.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities, record_shapes=True) as profile:
            self._step(step)
        profile.export_chrome_trace(str(run.trace_path(self.ranks.rank)))
