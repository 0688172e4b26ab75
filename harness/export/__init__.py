"""Export results to other tools; one module per tool, named as in `--to`. Never imports torch."""

import importlib
import importlib.util
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness.analysis.dataset import StudyResults
from harness.analysis.study_frames import StudyFrames, has_recorded
from harness.errors import UserError

# A writer gets the study, the folder to write to, and the path that the folder will have later.
# It returns the command that opens the export, if there is one.
Writer = Callable[[StudyFrames, Path, Path], str | None]

REQUIREMENTS: dict[str, dict[str, str]] = {  # tool: module -> extra of this package with it
    "csv": {},
    "latex": {},
    "parquet": {"pyarrow": "parquet"},
    "tensorboard": {"tensorboard": "tensorboard"},
    "wandb": {"wandb": "wandb"},
    "mlflow": {"mlflow": "mlflow", "sqlalchemy": "mlflow", "alembic": "mlflow"},
}


def missing_packages(to: str) -> str | None:
    """Return which packages a tool needs that are not installed, and what installs them."""
    missing = [name for name in REQUIREMENTS[to] if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    extra = REQUIREMENTS[to][missing[0]]
    return f"needs {', '.join(missing)}: pip install 'ablations[{extra}]'"


def export(study: StudyResults, to: str, out: Path) -> tuple[Path, str | None]:
    """Write all runs that have recorded a step to `out/<study>/<to>/`.

    Return the folder and the command that opens it, if any. An earlier export there is replaced
    once the new one is complete.

    Raises:
        UserError: a required package is not installed, or no run has recorded a step.
    """
    problem = missing_packages(to)
    if problem is not None:
        raise UserError(f"--to {to} {problem}")
    if not any(has_recorded(run) for run in study.runs):
        raise UserError(f"study '{study.name}' has no run that has recorded a step")
    folder = out / study.name / to
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{to}.", dir=folder.parent))
    try:
        write: Writer = importlib.import_module(f"harness.export.{to}").write
        open_command = write(StudyFrames(study), temporary, folder.absolute())
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        folder.chmod(0o755)  # temporary folders are private
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder, open_command
