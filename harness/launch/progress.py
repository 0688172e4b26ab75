"""What the user sees on stderr while runs go on: a live display on a terminal, plain lines elsewhere."""

import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from harness.results.records import RunSpec
from harness.results.store import Run

POLL_S = 0.5
PLAIN_EVERY_S = 30.0  # between plain lines about one run


class ProgressReporter:
    """`with ProgressReporter(specs) as watch:` then `begin` and `end` for each run; reads the store, never talks to the ranks."""

    def __init__(self, specs: Sequence[RunSpec]) -> None:
        self._console = Console(file=sys.stderr, highlight=False)
        self._work = {spec.run_id: _flops(spec) for spec in specs}
        self._started = time.monotonic()
        self._n_ended, self._work_ended, self._seconds_ended = 0, 0.0, 0.0
        self._now: tuple[Run, RunSpec, float] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> "ProgressReporter":
        self._live.start()
        self._all = self._live.add_task("entries", total=len(self._work), note="")
        self._one = self._live.add_task("", total=1, note="")
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
        self._live.update(self._one, visible=False)
        self._live.stop()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, markup=False, soft_wrap=True)

    def begin(self, run: Run, spec: RunSpec) -> None:
        """Show a run as the current one."""
        self._now = (run, spec, time.monotonic())
        self._live.reset(self._one, total=spec.train.steps, description=run.run_id, note="starting")

    def skip(self, run: Run, why: str) -> None:
        """Tell that a run is not started, and why."""
        self._n_ended += 1
        self._work[run.run_id] = 0.0
        self.say(f"{self._count()} {run.run_id} not started: {why}")

    def end(self, run: Run) -> None:
        """Tell how the current run ended."""
        assert self._now is not None
        seconds = time.monotonic() - self._now[2]
        self._now = None
        self._n_ended += 1
        self._work_ended += self._work[run.run_id]
        self._seconds_ended += seconds
        status, evals = run.status, run.evals()
        what = (
            f"val loss {evals[-1].val_loss:.4f}"
            if evals and status.status == "done"
            else status.message
        )
        word = (
            status.status
            if status.status == "done"
            else f"{status.status.upper()} ({status.reason})"
        )
        self.say(
            f"{self._count()} {run.run_id} {word} in {seconds:.1f} s, {what}, {self._left(0.0)}"
        )
        self._live.update(self._all, completed=self._n_ended, note=self._left(0.0))

    def _count(self) -> str:
        total = str(len(self._work))
        return f"[{self._n_ended:>{len(total)}}/{total}]"

    def _left(self, part: float) -> str:
        """Return the time left, from the speed so far; `part` is the share of the current run that is done."""
        now = self._now
        work, seconds = self._work_ended, self._seconds_ended
        if now is not None and part > 0:
            work += part * self._work[now[0].run_id]
            seconds += time.monotonic() - now[2]
        if work == 0:
            return "time left: unknown yet"
        left = seconds / work * (sum(self._work.values()) - work)
        return f"{duration(left)} left"

    def _look(self) -> None:
        said = time.monotonic()
        while not self._stop.wait(POLL_S):
            now = self._now
            if now is None:
                continue
            run, spec, _ = now
            line = run.last_step()
            if line is None:
                continue
            done = line.step + 1
            loss = "none" if line.loss is None else f"{line.loss:.4f}"
            note = f"loss {loss}  {line.tokens / line.step_s:,.0f} tokens/s"
            left = self._left(done / spec.train.steps)
            self._live.update(self._one, completed=done, note=note)
            self._live.update(self._all, completed=self._n_ended, note=left)
            if self._live.disable and time.monotonic() - said > PLAIN_EVERY_S:
                said = time.monotonic()
                self.say(
                    f"{self._count()} {run.run_id} step {done}/{spec.train.steps}  {note}  {left}"
                )


def _flops(spec: RunSpec) -> float:
    """Return a run's size, to tell the time left."""
    return spec.train.steps * spec.train.tokens_per_step * spec.expected.flops_per_token


def duration(seconds: float) -> str:
    """Write a time as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02} min"
        if hours
        else f"{minutes} min {rest:02} s"
        if minutes
        else f"{rest} s"
    )
