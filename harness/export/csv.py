"""Three CSV files: runs, steps, evals. A missing value is an empty cell."""

from pathlib import Path

from harness.analysis.study_frames import StudyFrames
from harness.export.runs import frames_with_settings

ROWS_PER_CHUNK = 100_000


def write(study: StudyFrames, folder: Path, target: Path) -> None:
    """Write `runs.csv`, `steps.csv` and `evals.csv`, with every digit and lower-case booleans."""
    for name, frame in frames_with_settings(study).items():
        flags = frame.select_dtypes("bool").columns
        lower = {flag: frame[flag].map({True: "true", False: "false"}) for flag in flags}
        frame.assign(**lower).to_csv(
            folder / f"{name}.csv", index=False, lineterminator="\n", chunksize=ROWS_PER_CHUNK
        )
