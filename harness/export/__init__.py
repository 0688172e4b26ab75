"""Results in the form that other tools read: one file per tool, its name that of `--to`. Never imports torch."""

import importlib
import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.analysis.dataset import StudyResults
from harness.errors import UserError
from harness.export.frames import Record, records

Writer = Callable[[str, Sequence[Record], Path, Path], str | None]

NEEDS = {  # module: what pip calls the extra that brings it
    "csv": {},
    "parquet": {"pyarrow": "parquet"},
    "tensorboard": {"tensorboard": "tensorboard"},
    "wandb": {"wandb": "wandb"},
    "mlflow": {"mlflow": "mlflow", "sqlalchemy": "mlflow", "alembic": "mlflow"},
}


def export(study: StudyResults, to: str, out: Path) -> tuple[Path, str | None]:
    """Write a study's runs, all that have recorded a step, to `out/<study>/<to>/`; return that and what to do with it.

    An earlier export there is replaced, as soon as the new one is whole.

    Raises:
        UserError: what it needs is not installed, or nothing is recorded.
    """
    missing = [name for name in NEEDS[to] if importlib.util.find_spec(name) is None]
    if missing:
        extra = NEEDS[to][missing[0]]
        raise UserError(f"--to {to} needs {', '.join(missing)}: pip install 'ablations[{extra}]'")
    found = records(study)
    if not found:
        raise UserError(f"study '{study.name}' has no run that has recorded a step")
    folder = out / study.name / to
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{to}.", dir=folder.parent))
    try:
        write: Writer = importlib.import_module(f"harness.export.{to}").write
        then = write(study.name, found, beside, folder.absolute())
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
        folder.chmod(0o755)  # not for this user alone, as a temporary one is
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder, then
