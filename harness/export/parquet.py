"""Three Parquet files with typed columns: runs, steps, evals. A missing value is null."""

from pathlib import Path

from harness.analysis.study_frames import StudyFrames
from harness.export.runs import frames_with_settings

ROWS_PER_GROUP = 100_000


def write(study: StudyFrames, folder: Path, target: Path) -> None:
    """Write `runs.parquet`, `steps.parquet` and `evals.parquet`."""
    for name, frame in frames_with_settings(study).items():
        path = folder / f"{name}.parquet"
        frame.to_parquet(path, engine="pyarrow", index=False, row_group_size=ROWS_PER_GROUP)
