"""Runs for Weights & Biases, in its offline mode: nothing is sent until `wandb sync`."""

from collections.abc import Sequence
from pathlib import Path

import wandb

from harness.export.frames import Record, shown


def write(study: str, records: Sequence[Record], folder: Path, place: Path) -> str:
    """Write an offline run for each run; its id is the run's own, so that a second sync doubles nothing."""
    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        save_code=False,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
    )
    for record in shown(records):
        run = wandb.init(
            mode="offline",
            dir=str(folder),
            project=study,
            id=record.run.run_id,
            name=record.run.run_id,
            group=record.entry,
            tags=[record.run.status, *record.axes.values()],
            config=record.settings,
            settings=settings,
        )
        for step, at, values in record.points():
            run.log(values | {"train_s": at}, step=step)
        run.summary.update(record.metrics | {"status": record.run.status})
        run.finish(exit_code=0 if record.run.status == "done" else 1)
    for link in (folder / "wandb").iterdir():
        if link.is_symlink():
            link.unlink()  # to the last run, at the place where this folder was written
    return f"wandb sync {place}/wandb/offline-run-*"
