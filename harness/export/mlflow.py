"""An MLflow store in one SQLite file; MLflow no longer maintains its store of plain files."""

import logging
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from harness.analysis.study_frames import StudyFrames
from harness.export.runs import ExportedRun, recorded_runs, with_progress

# Limits of one call.
MAX_METRICS = 1000
MAX_PARAMS = 100

STATUS = {
    "done": "FINISHED",
    "failed": "FAILED",
    "running": "RUNNING",
    "interrupted": "KILLED",
}


def write(study: StudyFrames, folder: Path, target: Path) -> str:
    """Write `mlflow.db`, with the study as experiment and a run for each run."""
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # hides the creation of its tables
    client = MlflowClient(tracking_uri=f"sqlite:///{folder.absolute() / 'mlflow.db'}")
    artifacts = (target / "artifacts").as_uri()
    experiment = client.create_experiment(study.name, artifact_location=artifacts)
    for run in with_progress(recorded_runs(study)):
        _write_run(client, experiment, run)
    return f"mlflow ui --backend-store-uri sqlite:///{target}/mlflow.db"


def _write_run(client: MlflowClient, experiment: str, run: ExportedRun) -> None:
    tags = {"run_id": run.run_id, "entry": run.entry, "status": run.data.status}
    start_s = run.started_s
    created = client.create_run(
        experiment, start_time=_milliseconds(start_s), run_name=run.run_id, tags=tags
    )
    run_id = created.info.run_id
    metrics = []
    end_s = start_s
    for point in run.points():
        end_s = start_s + point.time_s
        for name, value in point.values.items():
            metrics.append(Metric(name, value, _milliseconds(end_s), point.step))
    for name, value in run.results.items():
        metrics.append(Metric(f"result/{name}", value, _milliseconds(end_s), 0))
    params = [Param(key, str(value)) for key, value in run.settings.items()]
    for i in range(0, len(metrics), MAX_METRICS):
        client.log_batch(run_id, metrics=metrics[i : i + MAX_METRICS])
    for i in range(0, len(params), MAX_PARAMS):
        client.log_batch(run_id, params=params[i : i + MAX_PARAMS])
    client.set_terminated(run_id, STATUS[run.data.status], end_time=_milliseconds(end_s))


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
