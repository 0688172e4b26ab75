"""An MLflow store in one SQLite file; MLflow no longer maintains its store of plain files.

A live run obeys `MLFLOW_TRACKING_URI`, if it is set.
"""

import logging
import os
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run

from harness.analysis.study_frames import StudyFrames
from harness.export.runs import Point, RunEnd, TrackedRun, export_runs

# Limits of one call.
MAX_METRICS = 1000
MAX_PARAMS = 100
RESULT = "result/"  # before the names of results, which belong to no step

STATUS = {
    "done": "FINISHED",
    "failed": "FAILED",
    "running": "RUNNING",
    "interrupted": "KILLED",
}


def write(study: StudyFrames, folder: Path, target: Path) -> str:
    """Write `mlflow.db`, with the study as experiment and a run for each run."""
    client = MlflowClient(tracking_uri=_file_uri(folder.absolute()))
    artifacts = (target / "artifacts").as_uri()
    experiment = client.create_experiment(study.name, artifact_location=artifacts)

    def start_in_file(run: TrackedRun, folder: Path, continues: bool) -> "_Run":
        return _Run(client, experiment, run)

    export_runs(study, folder, start_in_file)
    return open_command(target)


def open_command(folder: Path) -> str:
    """Return the command that shows the runs of a folder."""
    return f"mlflow ui --backend-store-uri {_file_uri(folder)}"


def start(run: TrackedRun, folder: Path, continues: bool) -> "_Run":
    """Open a run at `MLFLOW_TRACKING_URI`, by default in `mlflow.db` of the folder."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    client = MlflowClient(tracking_uri=uri or _file_uri(folder.absolute()))
    known = client.get_experiment_by_name(run.study)
    if known is not None:
        experiment = known.experiment_id
    else:
        artifacts = None if uri else (folder.absolute() / "artifacts").as_uri()
        experiment = client.create_experiment(run.study, artifact_location=artifacts)
    found = client.search_runs([experiment], filter_string=f"tags.run_id = '{run.run_id}'")
    if found and continues:
        return _Run(client, experiment, run, found[0])
    for earlier in found:
        client.delete_run(earlier.info.run_id)
    return _Run(client, experiment, run)


class _Run:
    def __init__(
        self, client: MlflowClient, experiment: str, run: TrackedRun, earlier: Run | None = None
    ) -> None:
        self._client = client
        self._end_s = run.started_s
        self.next_step = 0
        if earlier is not None:
            self._id = earlier.info.run_id
            self._start_s = earlier.info.start_time / 1000
            self.next_step = self._last_step(list(earlier.data.metrics)) + 1
            client.update_run(self._id, status=STATUS["running"])
            return
        self._start_s = run.started_s
        tags = {"run_id": run.run_id, "entry": run.entry}
        started = _milliseconds(run.started_s)
        created = client.create_run(experiment, start_time=started, run_name=run.run_id, tags=tags)
        self._id = created.info.run_id
        params = [Param(key, str(value)) for key, value in run.settings.items()]
        for i in range(0, len(params), MAX_PARAMS):
            client.log_batch(self._id, params=params[i : i + MAX_PARAMS])

    def _last_step(self, metrics: list[str]) -> int:
        curves = [name for name in metrics if not name.startswith(RESULT)]
        last = -1
        for name in curves:
            history = self._client.get_metric_history(self._id, name)
            last = max(last, *(metric.step for metric in history))
        return last

    def log(self, points: list[Point]) -> None:
        batch: list[Metric] = []
        for point in points:
            self._end_s = self._start_s + point.time_s
            time_ms = _milliseconds(self._end_s)
            values = point.values.items()
            if len(batch) + len(values) > MAX_METRICS:  # a batch has whole points
                self._client.log_batch(self._id, metrics=batch)
                batch = []
            batch += [Metric(name, value, time_ms, point.step) for name, value in values]
        if batch:
            self._client.log_batch(self._id, metrics=batch)

    def finish(self, end: RunEnd) -> None:
        end_ms = _milliseconds(self._end_s)
        results = [
            Metric(f"{RESULT}{name}", value, end_ms, 0) for name, value in end.results.items()
        ]
        if results:
            self._client.log_batch(self._id, metrics=results)
        self._client.set_tag(self._id, "status", end.status)
        self._client.set_terminated(self._id, STATUS[end.status], end_time=end_ms)


def _file_uri(folder: Path) -> str:
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # hides the creation of its tables
    return f"sqlite:///{folder}/mlflow.db"


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
