"""Weights & Biases runs in offline mode: no data is sent until `wandb sync`."""

from pathlib import Path

import wandb

from harness.analysis.study_frames import StudyFrames
from harness.export.runs import recorded_runs, with_progress


def write(study: StudyFrames, folder: Path, target: Path) -> str:
    """Write an offline run for each run; the id keeps a second sync from adding duplicates."""
    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        save_code=False,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
    )
    for run in with_progress(recorded_runs(study)):
        tracked = wandb.init(
            mode="offline",
            dir=str(folder),
            project=study.name,
            id=run.run_id,
            name=run.run_id,
            group=run.entry,
            tags=[run.data.status, *run.axes.values()],
            config=run.settings,
            settings=settings,
        )
        for point in run.points():
            tracked.log(point.values | {"train_s": point.time_s}, step=point.step)
        tracked.summary.update(run.results | {"status": run.data.status})
        tracked.finish(exit_code=0 if run.data.status == "done" else 1)
    for link in (folder / "wandb").iterdir():
        if link.is_symlink():
            link.unlink()  # to the newest run, in a folder that is renamed afterwards
    return f"wandb sync {target}/wandb/offline-run-*"
