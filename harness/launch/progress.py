"""Show progress on stderr: a live display on a terminal, plain lines elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from harness.errors import StoreError
from harness.printable import printable
from harness.results.plausibility import implausible
from harness.results.records import RunSpec
from harness.results.run import Run

POLL_INTERVAL_S = 0.5
LINE_INTERVAL_S = 30.0  # between plain lines about runs
WIDE = 120  # columns of a terminal that has room for long bars
OTHER_LINES = 4  # of a terminal, for the totals and messages


@dataclass
class _Current:
    """A run that trains; `done_before` is the fraction of its steps that it has resumed with."""

    run: Run
    spec: RunSpec
    task: TaskID
    started: float
    done_before: float
    n_done: int = 0
    logged: float = 0.0

    @property
    def fraction(self) -> float:
        return self.n_done / self.spec.train.steps


class ProgressReporter:
    """Report runs: `with ProgressReporter(specs) as progress:`, then `start_run` and `end_run`.

    Several may run at once, and any thread may report. A thread reads the store; nothing
    communicates with the ranks. `width` is the number of devices of a run, from which the time left
    follows.
    """

    def __init__(
        self, specs: Sequence[RunSpec], width: Callable[[RunSpec], int] = lambda spec: 1
    ) -> None:
        self._console = Console(file=sys.stderr, highlight=False)
        self._flops = {spec.run_id: spec.total_flops for spec in specs}
        self._widths = {spec.run_id: width(spec) for spec in specs}
        self._lock = threading.RLock()
        self._n_ended = 0
        self._ended_flops = 0.0
        self._trained_flops = 0.0  # of runs that have ended, in this launch
        self._trained_s = 0.0  # devices times seconds
        self._n_devices = 1  # most that were in use at once
        self._current: dict[str, _Current] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        name = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        note = Column(no_wrap=True, overflow="ellipsis")
        self._display = Progress(
            TextColumn("{task.description}", table_column=name, markup=False),
            BarColumn(bar_width=24 if self._console.width >= WIDE else 8),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", table_column=note),
            TextColumn("{task.fields[note]}", table_column=note),
            console=self._console,
            disable=not self._console.is_terminal,
            expand=True,
        )

    def __enter__(self) -> "ProgressReporter":
        self._display.start()
        self._all_task = self._display.add_task("runs", total=len(self._flops), note="")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for run_id in list(self._current):
            self._remove(run_id)
        self._display.stop()

    def log(self, text: str) -> None:
        """Print a permanent line."""
        self._console.print(printable(text), markup=False, soft_wrap=True)

    def start_run(self, run: Run, spec: RunSpec) -> None:
        """Show a run that starts, next to the others."""
        last = run.last_step()
        n_done = 0 if last is None else min(last.step + 1, spec.train.steps)
        now = time.monotonic()
        with self._lock:
            self._remove(run.run_id)  # it starts again, as after a requeue
            task = self._display.add_task(
                run.run_id, total=spec.train.steps, note="starting", visible=self._has_room()
            )
            done_before = n_done / spec.train.steps
            self._current[run.run_id] = _Current(run, spec, task, now, done_before, n_done, now)
            in_use = sum(self._widths.get(run_id, 1) for run_id in self._current)
            self._n_devices = max(self._n_devices, in_use)

    def _has_room(self) -> bool:
        return len(self._current) < self._console.height - OTHER_LINES

    def skip_run(self, run: Run, reason: str) -> None:
        """Report that a run is not started or is given up, and why."""
        with self._lock:
            self._remove(run.run_id)
            self._n_ended += 1
            self._flops[run.run_id] = 0.0
            self.log(f"{self._count()} {run.run_id} not started: {reason}")
            self._display.update(self._all_task, completed=self._n_ended)

    def end_run(self, run: Run) -> None:
        """Report how a run has ended."""
        outcome, detail = _outcome(run)
        with self._lock:
            current = self._remove(run.run_id)
            seconds = 0.0
            if current is not None:
                seconds = time.monotonic() - current.started
                flops = self._flops[run.run_id]
                self._trained_flops += (1 - current.done_before) * flops
                self._trained_s += seconds * self._widths[run.run_id]
            self._n_ended += 1
            self._ended_flops += self._flops[run.run_id]
            time_left = self._time_left()
            self.log(
                f"{self._count()} {run.run_id} {outcome} in {seconds:.1f} s, {detail}, {time_left}"
            )
            self._display.update(self._all_task, completed=self._n_ended, note=time_left)

    def _remove(self, run_id: str) -> _Current | None:
        """Show a run no longer; a run for which there was no room gets its line."""
        current = self._current.pop(run_id, None)
        if current is not None:
            self._display.remove_task(current.task)
            shown = list(self._current.values())[: max(1, self._console.height - OTHER_LINES)]
            for other in shown:
                self._display.update(other.task, visible=True)
        return current

    def _count(self) -> str:
        total = str(len(self._flops))
        return f"[{self._n_ended:>{len(total)}}/{total}]"

    def _time_left(self) -> str:
        """Return the time left at the mean speed so far: that of the devices, or the longest run's.

        The devices are taken as busy until the end.
        """
        now = time.monotonic()
        trained = self._trained_flops
        device_s = self._trained_s
        done = self._ended_flops
        for run_id, current in self._current.items():
            flops = self._flops.get(run_id, 0.0)
            done += current.fraction * flops
            if current.fraction > current.done_before:
                trained += (current.fraction - current.done_before) * flops
                device_s += (now - current.started) * self._widths.get(run_id, 1)
        if trained == 0:
            return "time left: unknown yet"
        s_per_flop = device_s / trained
        left_s = [s_per_flop * (sum(self._flops.values()) - done) / self._n_devices]
        for run_id, current in self._current.items():
            own_flops = (1 - current.fraction) * self._flops.get(run_id, 0.0)
            left_s.append(s_per_flop * own_flops / self._widths.get(run_id, 1))
        return f"{duration(max(left_s))} left"

    def _poll(self) -> None:
        while not self._stop.wait(POLL_INTERVAL_S):
            with self._lock:
                running = list(self._current.values())
            for current in running:
                self._show(current, LINE_INTERVAL_S * len(running))

    def _show(self, current: _Current, interval_s: float) -> None:
        step = current.run.last_step()
        if step is None:
            return
        with self._lock:
            if current.run.run_id not in self._current:  # it has ended meanwhile
                return
            current.n_done = step.step + 1
            n_steps = current.spec.train.steps
            loss = "none" if step.loss is None else f"{step.loss:.4f}"
            note = f"loss {loss}  {step.tokens / step.step_s:,.0f} tokens/s"
            time_left = self._time_left()
            self._display.update(current.task, completed=current.n_done, note=note)
            self._display.update(self._all_task, completed=self._n_ended, note=time_left)
            if self._display.disable and time.monotonic() - current.logged > interval_s:
                current.logged = time.monotonic()
                position = f"{current.run.run_id} step {current.n_done}/{n_steps}"
                self.log(f"{self._count()} {position}  {note}  {time_left}")


def _outcome(run: Run) -> tuple[str, str]:
    """Return how a run ended, and its final loss or why it failed."""
    outcome = run.outcome
    if outcome.status != "done":
        return f"{outcome.status.upper()} ({outcome.reason})", str(outcome.message)
    try:
        spec = run.spec
        evals = run.evals()
    except StoreError as error:
        return "UNREADABLE (error)", str(error)
    if not evals:
        return "done", str(outcome.message)
    findings = implausible(
        spec,
        [line.step for line in evals],
        [line.val_loss for line in evals],
        [line.bits_per_byte for line in evals],
    )
    warnings = [f"; WARNING: {finding.message}" for finding in findings]
    loss = evals[-1].val_loss
    shown = "none" if loss is None else f"{loss:.4f}"
    return "done", f"val loss {shown}{''.join(warnings)}"


def duration(seconds: float) -> str:
    """Format a duration: `8 s`, `3 min 05 s`, `2 h 04 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    if minutes:
        return f"{minutes} min {rest:02} s"
    return f"{rest} s"
