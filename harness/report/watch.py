"""Write reports again while the runs of their studies progress."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import sleep

from harness.analysis.selection import WHOLE, Selection
from harness.errors import StoreError, UserError
from harness.report import write
from harness.results.store import Store

OPEN = ("pending", "running")


@dataclass(frozen=True)
class ReportRequest:
    """The study of a report, the study file that it follows, if any, and its scope."""

    study: str
    study_file: Path | None = None
    selection: Selection = WHOLE

    def write(self, store: Store, out: Path, refresh_s: int | None = None) -> Path:
        """Write the report and return its folder."""
        return write(store, self.study, out, refresh_s, self.study_file, self.selection)

    def last_change(self, store: Store) -> float:
        """Return when a file of the study, or the study file, last changed."""
        times = [store.last_change(self.study)]
        if self.study_file is not None and self.study_file.exists():
            times.append(self.study_file.stat().st_mtime)
        return max(times)


def update_until_done(
    store: Store,
    requests: Sequence[ReportRequest],
    out: Path,
    interval_s: int,
    log: Callable[[str], None],
) -> list[Path]:
    """Write each study's report when one of its files changes, until no run is open.

    A study without results is waited for, also if its folder is removed while runs were open.
    Without requests, the reports are those of all studies. `log` receives one line for each report
    written, and one for each study that is waited for. Return the folders of the reports.

    Raises:
        UserError: the study file or the selection is invalid from the start; later, while the file
            is edited, the report waits for a valid one.
    """
    folders: dict[str, Path] = {}
    reported: dict[str, tuple[float, Sequence[str]]] = {}
    waiting: set[str] = set()
    while True:
        started = time.monotonic()
        n_open = 0
        asked = requests or [ReportRequest(name) for name in store.studies()]
        if not asked and "" not in waiting:
            waiting.add("")
            log(f"waiting for results in {store.root}")
        for request in asked:
            name = request.study
            try:
                changed = request.last_change(store)
                states = [run.outcome.status for run in store.runs(name)]
                if not states:
                    raise FileNotFoundError(store.root / name)
                n_left = sum(state in OPEN for state in states)
                # A run may end between the two reads: either alone misses its end.
                if reported.get(name) != (changed, states):
                    folder = request.write(store, out, interval_s if n_left else None)
                    folders[name] = folder
                    reported[name] = (changed, states)
                    done = f"{states.count('done')} of {len(states)} runs done"
                    log(f"{time.strftime('%H:%M:%S')} {name}: {done}: {folder / 'index.html'}")
                n_open += n_left
                waiting.discard(name)
            except (UserError, StoreError, OSError) as error:
                # The folder is not there yet or is being replaced, or the study file is edited.
                if isinstance(error, UserError) and name not in folders:
                    raise
                n_open += 1
                reported.pop(name, None)
                if name not in waiting:
                    waiting.add(name)
                    is_missing = isinstance(error, FileNotFoundError)
                    reason = f"no results in {store.root / name}" if is_missing else str(error)
                    log(f"{name}: waiting: {reason}")
        if asked and not n_open:
            return list(folders.values())
        sleep(max(interval_s, time.monotonic() - started))
