"""Measure a few more steps after training: phases, communication, and a trace on request."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from harness.distributed.process_group import DistributedContext
from harness.probes.communication import CommunicationCounter
from harness.probes.phases import PhaseTimer
from harness.probes.timer import UNTIMED, StepTimer
from harness.results.records import PHASES, CollectiveTraffic, RankPhases
from harness.results.run import Run

N_TIMED = 3


@dataclass(frozen=True)
class PostTrainingResults:
    """Phase times and communication of a step, one item for each rank."""

    phases: list[RankPhases]
    traffic: list[dict[str, CollectiveTraffic]]


@dataclass(frozen=True)
class PostTrainingProbe:
    """Repeat the run's own training step, so that measuring needs no additional memory.

    The steps change the model: its parameters must not be read afterwards.
    """

    model: nn.Module
    context: DistributedContext
    train_step: Callable[[int, StepTimer], object]  # makes the step of that number
    is_compiled: bool

    def measure(self, first: int, run: Run, trace: bool) -> PostTrainingResults:
        """Measure steps from `first` on; with `trace`, each rank writes a Chrome trace of one."""
        # Memory and caches settle in this step, after the probes before.
        with torch.compiler.set_stance("force_eager"), CommunicationCounter() as counter:
            self.train_step(first, UNTIMED)
        first_timed = first + 1
        if self.is_compiled:
            self.train_step(first_timed, UNTIMED)
            first_timed += 1
        timers = [self._time_phases(first_timed + i) for i in range(N_TIMED)]
        if trace:
            self._trace(first_timed + N_TIMED, run)
        return PostTrainingResults(
            phases=self.context.gather(_by_phase(timers)),
            traffic=self.context.gather(counter.traffic()),
        )

    def _time_phases(self, step: int) -> PhaseTimer:
        self.context.barrier()  # as the loop does after each step: all ranks start together
        with PhaseTimer(self.model, self.context.device) as timer:
            self.train_step(step, timer)
        return timer

    def _trace(self, step: int, run: Run) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.context.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities, record_shapes=True) as profile:
            self.train_step(step, UNTIMED)
        run.check_claim()
        profile.export_chrome_trace(str(run.trace_path(self.context.rank)))


def _by_phase(timers: list[PhaseTimer]) -> RankPhases:
    columns: dict[str, object] = {}
    for phase in PHASES:
        columns[f"{phase}_s"] = [timer.seconds[phase] for timer in timers]
    columns["data_s"] = [timer.data_s for timer in timers]
    return RankPhases.model_validate(columns)
