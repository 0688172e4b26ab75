"""TensorBoard events: a folder for each run, with curves by recorded time and the HParams tab.

TensorBoard stores scalars as 32-bit floats.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import summary_v2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from harness.analysis.study_frames import StudyFrames
from harness.export.runs import Point, RunEnd, TrackedRun, export_runs


def write(study: StudyFrames, folder: Path, target: Path) -> str:
    """Write a folder for each run id."""
    export_runs(study, folder, start)
    return open_command(target)


def open_command(folder: Path) -> str:
    """Return the command that shows the runs in a folder."""
    return f"tensorboard --logdir {folder}"


def start(run: TrackedRun, folder: Path, continues: bool) -> "_Events":
    """Open a run. Its events are always written from the first step on: there is one file."""
    shutil.rmtree(folder / run.run_id, ignore_errors=True)
    return _Events(run, folder / run.run_id)


class _Events:
    next_step = 0

    def __init__(self, run: TrackedRun, folder: Path) -> None:
        self._start_s = run.started_s
        self._last_step = 0
        self._writer = EventFileWriter(str(folder))
        settings = summary_v2.hparams_pb(
            run.settings, trial_id=run.run_id, start_time_secs=run.started_s
        )
        self._writer.add_event(Event(wall_time=self._start_s, summary=settings))

    def log(self, points: list[Point]) -> None:
        for point in points:
            time_s = self._start_s + point.time_s
            summary = _scalars(point.values)
            self._writer.add_event(Event(wall_time=time_s, step=point.step, summary=summary))
            self._last_step = point.step
        self._writer.flush()

    def finish(self, end: RunEnd) -> None:
        results = {f"result/{name}": value for name, value in end.results.items()}
        summary = _scalars(results)
        self._writer.add_event(
            Event(wall_time=self._start_s, step=self._last_step, summary=summary)
        )
        self._writer.close()


def _scalars(values: Mapping[str, float]) -> Summary:
    scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    return Summary(value=scalars)
