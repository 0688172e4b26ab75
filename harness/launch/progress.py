"""Show progress on stderr: a live display on a terminal, plain lines elsewhere."""

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from harness.results.plausibility import implausible
from harness.results.records import RunSpec
from harness.results.store import Run, Store

POLL_INTERVAL_S = 0.5
LINE_INTERVAL_S = 30.0  # between plain lines about one run


@dataclass(frozen=True)
class _CurrentRun:
    run: Run
    spec: RunSpec
    started: float


class ProgressReporter:
    """Report each run: `with ProgressReporter(specs) as progress:`, then `start_run` and `end_run`.

    A thread reads the store; nothing communicates with the ranks.
    """

    def __init__(self, specs: Sequence[RunSpec]) -> None:
        self._console = Console(file=sys.stderr, highlight=False)
        self._flops = {spec.run_id: _total_flops(spec) for spec in specs}
        self._n_ended = 0
        self._ended_flops = 0.0
        self._ended_s = 0.0
        self._current: _CurrentRun | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._display = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> "ProgressReporter":
        self._display.start()
        self._all_task = self._display.add_task("runs", total=len(self._flops), note="")
        self._run_task = self._display.add_task("", total=1, note="")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._display.update(self._run_task, visible=False)
        self._display.stop()

    def log(self, text: str) -> None:
        """Print a permanent line."""
        self._console.print(text, markup=False, soft_wrap=True)

    def start_run(self, run: Run, spec: RunSpec) -> None:
        """Show a run as the current one."""
        self._current = _CurrentRun(run, spec, time.monotonic())
        self._display.reset(
            self._run_task, total=spec.train.steps, description=run.run_id, note="starting"
        )

    def skip_run(self, run: Run, reason: str) -> None:
        """Report that a run is not started, and why."""
        self._n_ended += 1
        self._flops[run.run_id] = 0.0
        self.log(f"{self._count()} {run.run_id} not started: {reason}")

    def end_run(self, run: Run) -> None:
        """Report how the current run ended."""
        assert self._current is not None
        seconds = time.monotonic() - self._current.started
        self._current = None
        self._n_ended += 1
        self._ended_flops += self._flops[run.run_id]
        self._ended_s += seconds
        time_left = self._time_left()
        outcome, detail = _outcome(run)
        self.log(
            f"{self._count()} {run.run_id} {outcome} in {seconds:.1f} s, {detail}, {time_left}"
        )
        self._display.update(self._all_task, completed=self._n_ended, note=time_left)

    def _count(self) -> str:
        total = str(len(self._flops))
        return f"[{self._n_ended:>{len(total)}}/{total}]"

    def _time_left(self, fraction: float = 0.0) -> str:
        """Return the time left at the mean speed so far; `fraction` of the current run is done."""
        flops = self._ended_flops
        seconds = self._ended_s
        current = self._current
        if current is not None and fraction > 0:
            flops += fraction * self._flops[current.run.run_id]
            seconds += time.monotonic() - current.started
        if flops == 0:
            return "time left: unknown yet"
        left_s = seconds / flops * (sum(self._flops.values()) - flops)
        return f"{duration(left_s)} left"

    def _poll(self) -> None:
        logged = time.monotonic()
        while not self._stop.wait(POLL_INTERVAL_S):
            current = self._current
            step = current.run.last_step() if current is not None else None
            if current is None or step is None:
                continue
            done = step.step + 1
            n_steps = current.spec.train.steps
            loss = "none" if step.loss is None else f"{step.loss:.4f}"
            note = f"loss {loss}  {step.tokens / step.step_s:,.0f} tokens/s"
            time_left = self._time_left(done / n_steps)
            self._display.update(self._run_task, completed=done, note=note)
            self._display.update(self._all_task, completed=self._n_ended, note=time_left)
            if self._display.disable and time.monotonic() - logged > LINE_INTERVAL_S:
                logged = time.monotonic()
                position = f"{current.run.run_id} step {done}/{n_steps}"
                self.log(f"{self._count()} {position}  {note}  {time_left}")


def _outcome(run: Run) -> tuple[str, str]:
    """Return how a run ended, and its final loss or why it failed."""
    status = run.status
    if status.status != "done":
        return f"{status.status.upper()} ({status.reason})", str(status.message)
    evals = run.evals()
    if not evals:
        return "done", str(status.message)
    findings = implausible(
        run.spec,
        [line.step for line in evals],
        [line.val_loss for line in evals],
        [line.bits_per_byte for line in evals],
    )
    warnings = [f"; WARNING: {finding.message}" for finding in findings]
    loss = evals[-1].val_loss
    shown = "none" if loss is None else f"{loss:.4f}"
    return "done", f"val loss {shown}{''.join(warnings)}"


def _total_flops(spec: RunSpec) -> float:
    """Return the training FLOPs of a run, which estimate its time."""
    expected = spec.expected
    per_token = expected.flops_per_token_counted or expected.flops_per_token
    return spec.train.total_tokens * per_token


def time_summary(store: Store, specs: Sequence[RunSpec], wall_s: float) -> str:
    """Return the wall time of a launch, and the fraction of it in which its runs trained."""
    busy_s = 0.0
    for spec in specs:
        probes = store.run(spec.study, spec.run_id).probes
        if probes is not None and probes.time is not None:
            busy_s += probes.time.train_s + probes.time.eval_s
    return f"{duration(wall_s)}, {busy_s / wall_s:.0%} of it training and evaluating"


def duration(seconds: float) -> str:
    """Format a duration: `8 s`, `3 min 05 s`, `2 h 04 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    if minutes:
        return f"{minutes} min {rest:02} s"
    return f"{rest} s"
