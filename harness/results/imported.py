"""Write the runs of a table of another trainer as a study of the results folder."""

from collections.abc import Sequence

from harness.results.files import remove, write_json
from harness.results.records import ImportedRun, LaunchRecord, RunStatus
from harness.results.store import Store


def replace_study(
    store: Store, study: str, runs: Sequence[ImportedRun], launch: LaunchRecord
) -> None:
    """Write an imported study; its earlier runs are removed once the new ones are written.

    A run ended, at the latest, when it was first imported, so that seeds which are added to a table
    later count as added after a look at its results.
    """
    new = Store(store.root / f".ingest-{study}")
    remove(new.root)
    launches = [*store.launches(study), launch]
    for earlier in launches:
        new.record_launch(study, earlier)
    ended_at = {run_id: one.at for one in reversed(launches) for run_id in one.order}
    for run in runs:
        folder = new.root / study / run.run_id
        folder.mkdir()
        write_json(folder / "imported.json", run)
        write_json(folder / "status.json", _status(run, ended_at[run.run_id]))
    if (store.root / study).exists():
        (store.root / study).rename(new.root / "earlier")
    (new.root / study).rename(store.root / study)
    remove(new.root)


def _status(run: ImportedRun, ended_at: str) -> RunStatus:
    if run.evals[-1].val_loss is not None:
        return RunStatus(status="done", ended_at=ended_at)
    message = "its last validation loss is not a finite number"
    return RunStatus(status="failed", reason="nan", message=message, ended_at=ended_at)
