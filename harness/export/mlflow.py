"""An MLflow store in one SQLite file; its store of plain files is no longer maintained."""

import logging
from collections.abc import Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from harness.export.frames import Record, shown

METRICS_AT_ONCE, PARAMS_AT_ONCE = 1000, 100  # what MLflow takes in one call
ENDED = {"done": "FINISHED", "failed": "FAILED", "running": "RUNNING", "interrupted": "KILLED"}


def write(study: str, records: Sequence[Record], folder: Path, place: Path) -> str:
    """Write `mlflow.db`, with the study as experiment and a run for each run."""
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # not how its tables are made
    client = MlflowClient(tracking_uri=f"sqlite:///{folder.absolute() / 'mlflow.db'}")
    experiment = client.create_experiment(study, artifact_location=(place / "artifacts").as_uri())
    for record in shown(records):
        began = record.began
        tags = {"run_id": record.run.run_id, "entry": record.entry, "status": record.run.status}
        run_id = client.create_run(
            experiment, start_time=_ms(began), run_name=record.run.run_id, tags=tags
        ).info.run_id
        metrics, at = [], 0.0
        for step, at, values in record.points():
            metrics += [
                Metric(name, value, _ms(began + at), step) for name, value in values.items()
            ]
        metrics += [
            Metric(f"result/{name}", value, _ms(began + at), 0)
            for name, value in record.metrics.items()
        ]
        params = [Param(key, str(value)) for key, value in record.settings.items()]
        for i in range(0, len(metrics), METRICS_AT_ONCE):
            client.log_batch(run_id, metrics=metrics[i : i + METRICS_AT_ONCE])
        for i in range(0, len(params), PARAMS_AT_ONCE):
            client.log_batch(run_id, params=params[i : i + PARAMS_AT_ONCE])
        client.set_terminated(run_id, ENDED[record.run.status], end_time=_ms(began + at))
    return f"mlflow ui --backend-store-uri sqlite:///{place}/mlflow.db"


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
