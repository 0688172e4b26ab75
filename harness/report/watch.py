"""Write reports again while the runs of their studies progress."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.report import write
from harness.results.store import Store

OPEN = ("pending", "running")


def update_until_done(
    store: Store, names: Sequence[str], out: Path, interval_s: int, log: Callable[[str], None]
) -> None:
    """Write each study's report when one of its files changes, until no run is open.

    `log` receives one line for each report written.
    """
    last_changes: dict[str, float] = {}
    while True:
        started = time.monotonic()
        n_open = 0
        for name in names:
            changed = store.last_change(name)
            states = [run.outcome.status for run in store.runs(name)]
            n_left = sum(state in OPEN for state in states)
            n_open += n_left
            if last_changes.get(name) != changed:
                last_changes[name] = changed
                folder = write(store, name, out, interval_s if n_left else None)
                done = f"{states.count('done')} of {len(states)} runs done"
                log(f"{time.strftime('%H:%M:%S')} {name}: {done}: {folder / 'index.html'}")
        if not n_open:
            return
        time.sleep(max(interval_s, time.monotonic() - started))
