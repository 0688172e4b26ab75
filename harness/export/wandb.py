"""Weights & Biases runs; offline, so that no data is sent until `wandb sync`.

A live run obeys `WANDB_MODE`, by default `offline`.
"""

import os
import shutil
from pathlib import Path
from typing import Literal

import wandb

from harness.analysis.study_frames import StudyFrames
from harness.export.runs import Point, RunEnd, TrackedRun, export_runs

Mode = Literal["online", "offline", "disabled", "shared"]
OFFLINE: Mode = "offline"


def write(study: StudyFrames, folder: Path, target: Path) -> str:
    """Write an offline run for each run; the id keeps a second sync from adding duplicates."""
    export_runs(study, folder, _start_offline)
    wandb.teardown()  # writes the rest; at the latest, the end of the process does
    for link in (folder / "wandb").iterdir():
        if link.is_symlink():
            link.unlink()  # to the newest run, in a folder that is renamed afterwards
    return open_command(target)


def open_command(folder: Path) -> str:
    """Return the command that sends the offline runs in a folder."""
    return f"wandb sync {folder}/wandb/offline-run-*"


def start(run: TrackedRun, folder: Path, continues: bool) -> "_Run":
    """Open a run in the mode of `WANDB_MODE`.

    Offline, it is always written from the first step on, and replaces what the folder has of it.
    """
    mode: Mode = os.environ.get("WANDB_MODE", OFFLINE)  # type: ignore[assignment]
    return _open(run, folder, mode, continues and mode == "online")


def _start_offline(run: TrackedRun, folder: Path, continues: bool) -> "_Run":
    return _open(run, folder, OFFLINE, continues=False)


def _open(run: TrackedRun, folder: Path, mode: Mode, continues: bool) -> "_Run":
    if mode == OFFLINE:
        for earlier in folder.glob(f"wandb/offline-run-*-{run.run_id}"):
            shutil.rmtree(earlier)
    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        save_code=False,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
    )
    tracked = wandb.init(
        mode=mode,
        dir=str(folder),
        project=run.study,
        id=run.run_id,
        name=run.run_id,
        group=run.entry,
        tags=list(dict.fromkeys(run.axes.values())),
        config=run.settings,
        settings=settings,
        resume="allow" if continues else None,
        reinit="create_new",  # several runs may be open at once
    )
    return _Run(tracked)


class _Run:
    def __init__(self, run: wandb.Run) -> None:
        self._run = run
        self.next_step = run.step if run.resumed else 0

    def log(self, points: list[Point]) -> None:
        for point in points:
            self._run.log(point.values | {"train_s": point.time_s}, step=point.step)

    def finish(self, end: RunEnd) -> None:
        self._run.tags = (*(self._run.tags or ()), end.status)
        self._run.summary.update(dict(end.results) | {"status": end.status})
        self._run.finish(exit_code=0 if end.status == "done" else 1)
