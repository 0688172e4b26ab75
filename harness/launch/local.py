"""Run on this machine: as many runs at once as fit, each in a thread that waits for its ranks."""

import contextlib
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from harness.errors import StoreError
from harness.launch.backend import Stopped
from harness.launch.machine import Machine, Unit, find_machine
from harness.launch.one_run import StartRun, run_claimed
from harness.launch.placement import Queue, Request, request_of
from harness.launch.progress import ProgressReporter
from harness.launch.reservations import Reservations
from harness.launch.slots import Slot
from harness.launch.stop import Stop
from harness.launch.timing_runs import due_timing_runs, start_timing_run, timing_spec
from harness.results import claims
from harness.results.records import LaunchSpec, RunSpec
from harness.results.run import Run
from harness.results.store import Store

POLL_INTERVAL_S = 0.2
OTHERS_INTERVAL_S = 1.0  # between looks at runs and devices that other launches hold

StartInSlot = Callable[[Run, LaunchSpec, Slot, Stop], None]


def _unchanged(start: StartRun) -> StartRun:
    return start


@dataclass(frozen=True)
class LocalBackend:
    """Run on this machine; `start` trains one run in a slot, and returns when it has ended.

    `parallel` limits the number of runs at once, by default to one on a CPU. `followed` wraps the
    function that starts a run.
    """

    start: StartInSlot
    parallel: int | None = None
    followed: Callable[[StartRun], StartRun] = _unchanged

    def run_all(self, store: Store, specs: Sequence[RunSpec], fail_fast: bool) -> None:
        """See `Backend`.

        With `fail_fast`, the first run that fails ends the others after their step; they resume.

        Raises:
            UserError: this machine cannot train the runs as asked for.
        """
        if not specs:
            return
        stop = Stop()
        with stop.on_signals(), stop.launching(), Reservations() as reservations:
            notes: list[str] = []
            machine = find_machine(specs, self.parallel, reservations, notes.append)
            with ProgressReporter(specs, machine.width) as progress:
                for note in notes:
                    progress.log(note)
                launch = _Launch(self, store, specs, machine, reservations, progress, stop)
                launch.run(fail_fast)
        if stop.requested is not None and not launch.has_failed_fast:
            raise Stopped("stopped; the same command resumes")

    def time_runs(self, store: Store, specs: Sequence[RunSpec], n_steps: int) -> None:
        """Train a few steps of each finished run that shared this machine, one run at a time.

        Raises:
            Stopped: the user stopped the command.
        """
        due = due_timing_runs(store, specs, n_steps)
        if not due:
            return
        stop = Stop()
        timing_specs = [timing_spec(spec, n_steps) for spec in due]
        with stop.on_signals(), stop.launching(), Reservations() as reservations:
            notes: list[str] = []
            machine = find_machine(specs, 1, reservations, notes.append)
            with ProgressReporter(timing_specs, lambda spec: 1) as progress:
                progress.log(f"{len(due)} runs shared this machine; each is timed by itself")
                for spec, short in zip(due, timing_specs, strict=True):
                    if stop.requested is not None:
                        break
                    slot = machine.slot(machine.units[: machine.width(spec)], is_shared=False)
                    start = _start_in(self.start, slot, stop, reservations)
                    start_timing_run(store, spec, short, start, progress)
        if stop.requested is not None:
            raise Stopped("stopped; the same command times the other runs")


def _start_in(start: StartInSlot, slot: Slot, stop: Stop, reservations: Reservations) -> StartRun:
    """Return the function that starts a run in a slot.

    Afterwards it marks the run as `shared` if another launch ran on this machine, too.
    """

    def start_in_slot(run: Run, launch: LaunchSpec) -> None:
        start(run, launch, slot, stop)
        if slot.timing == "shared" or not reservations.has_neighbors():
            return
        with contextlib.suppress(StoreError):
            env = run.env
            if env is not None:
                run.write_env(env.model_copy(update={"timing": "shared"}))

    return start_in_slot


@dataclass(frozen=True)
class _Running:
    """A run that trains, its units, and the function that frees these for other launches."""

    request: Request
    units: Sequence[Unit]
    free: Callable[[], None]


@dataclass
class _Launch:
    """One call of `run_all`."""

    backend: LocalBackend
    store: Store
    specs: Sequence[RunSpec]
    machine: Machine
    reservations: Reservations
    progress: ProgressReporter
    stop: Stop
    has_failed_fast: bool = False
    _running: dict[str, _Running] = field(default_factory=dict)
    _held: dict[str, Request] = field(default_factory=dict)  # runs of other processes
    _ended: "queue.Queue[tuple[str, BaseException | None]]" = field(default_factory=queue.Queue)
    _error: BaseException | None = None
    _logged: set[str] = field(default_factory=set)
    _polled_at: float = 0.0

    def __post_init__(self) -> None:
        self._by_id = {spec.run_id: spec for spec in self.specs}
        self._before = {}
        for spec in self.specs:
            with contextlib.suppress(StoreError):  # the user removes it: it is created again
                self._before[spec.run_id] = self._run(spec).status
        self._requests = [request_of(spec, self.machine.width(spec)) for spec in self.specs]
        # What is free again lets narrow runs pass a wide one once per unit at most.
        self._queue = Queue(self._requests, max_passed=len(self.machine.units))

    def run(self, fail_fast: bool) -> None:
        """Start each run when it fits, until all have ended; raise the error of a thread.

        An error of this thread, such as output that nobody reads, also ends the runs after their
        step.
        """
        try:
            self._run_all(fail_fast)
        except BaseException:
            self.stop.request(signal.SIGTERM)
            while self._running:
                self._await_end(fail_fast)
            raise
        if self._error is not None:
            raise self._error

    def _run_all(self, fail_fast: bool) -> None:
        while True:
            if self.stop.requested is None:
                self._start_what_fits()
            is_empty = not (self._queue or self._held)
            if not self._running and (is_empty or self.stop.requested is not None):
                return
            self._await_end(fail_fast)
            self._poll_held()

    def _run(self, spec: RunSpec) -> Run:
        return self.store.run(spec.study, spec.run_id)

    def _start_what_fits(self) -> None:
        while len(self._running) < self.machine.limit:
            free = self._free_units()
            request = self._queue.take(len(free), self._may_start) if free else None
            if request is None:
                if self._queue and not self._running and not self._held:
                    self._log_once("waiting for devices that another launch on this machine uses")
                return
            units = free[: request.n_units]
            names = [name for unit in units if unit.device for name in unit.names]
            release = self.reservations.take(names)
            if release is None:  # another launch was faster
                self._queue.put_back(request)
                return
            run = self._run(self._by_id[request.run_id])
            try:
                claim = run.claim()
            except StoreError as error:
                release()
                self.progress.skip_run(run, str(error))
                continue
            if claim is None:
                release()
                self._held[request.run_id] = request
                continue
            self._running[request.run_id] = _Running(request, units, release)
            arguments = (self._by_id[request.run_id], claim, self._slot(request, units))
            threading.Thread(target=self._train, args=arguments, daemon=True).start()

    def _slot(self, request: Request, units: Sequence[Unit]) -> Slot:
        n_left = len(self.machine.units) - request.n_units
        fits_another = any(
            other.n_units <= n_left for other in self._requests if other is not request
        )
        is_shared = self.machine.limit > 1 and fits_another
        return self.machine.slot(units, is_shared or self.reservations.has_neighbors())

    def _free_units(self) -> list[Unit]:
        used = {unit for running in self._running.values() for unit in running.units}
        free = [unit for unit in self.machine.units if unit not in used]
        # Groups of cores are reserved for the whole launch.
        return [
            unit for unit in free if unit.device is None or self.reservations.is_free(unit.device)
        ]

    def _may_start(self, request: Request) -> bool:
        return request.source not in self._running and request.source not in self._held

    def _train(self, spec: RunSpec, claim: claims.Claim, slot: Slot) -> None:
        """Train one run, in a thread of its own."""
        error: BaseException | None = None
        try:
            start = _start_in(self.backend.start, slot, self.stop, self.reservations)
            start = self.backend.followed(start)
            before = self._before.get(spec.run_id)
            run_claimed(self.store, spec, claim, start, self.progress, before)
        except BaseException as raised:  # the main thread raises it
            error = raised
        self._ended.put((spec.run_id, error))

    def _await_end(self, fail_fast: bool) -> None:
        """Wait a little for the end of a run; free its slot."""
        try:
            run_id, error = self._ended.get(timeout=POLL_INTERVAL_S)
        except queue.Empty:
            return
        running = self._running.pop(run_id)
        running.free()
        has_failed = self._run(self._by_id[run_id]).outcome.status in ("failed", "unreadable")
        if error is not None:
            self._error = self._error or error
            self.stop.request(signal.SIGTERM)
        elif fail_fast and has_failed and self.stop.requested is None:
            self.has_failed_fast = True
            self.stop.request(signal.SIGTERM)

    def _poll_held(self) -> None:
        """Queue the runs that other processes have left."""
        if not self._held or time.monotonic() < self._polled_at + OTHERS_INTERVAL_S:
            return
        self._polled_at = time.monotonic()
        if not self._running and not self._queue:
            self._log_once(f"waiting for {next(iter(self._held))}, which another process runs")
        for run_id, request in list(self._held.items()):
            if not self._is_held(self._run(self._by_id[run_id])):
                del self._held[run_id]
                self._queue.put_back(request)

    def _is_held(self, run: Run) -> bool:
        """Return whether another process holds a run; if that cannot be read, its claim says so."""
        try:
            return claims.owner_of(run.claims) is not None
        except StoreError:
            return False

    def _log_once(self, text: str) -> None:
        if text not in self._logged:
            self._logged.add(text)
            self.progress.log(text)
