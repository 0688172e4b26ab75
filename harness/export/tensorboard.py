"""TensorBoard events: a folder for each run, with curves by recorded time and the HParams tab.

TensorBoard stores scalars as 32-bit floats.
"""

from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import summary_v2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from harness.analysis.study_frames import StudyFrames
from harness.export.runs import ExportedRun, recorded_runs, with_progress


def write(study: StudyFrames, folder: Path, target: Path) -> str:
    """Write a folder for each run id."""
    for run in with_progress(recorded_runs(study)):
        _write_run(run, folder / run.run_id)
    return f"tensorboard --logdir {target}"


def _write_run(run: ExportedRun, folder: Path) -> None:
    writer = EventFileWriter(str(folder))
    start_s = run.started_s
    settings = summary_v2.hparams_pb(run.settings, trial_id=run.run_id, start_time_secs=start_s)
    writer.add_event(Event(wall_time=start_s, summary=settings))
    last_step = 0
    for point in run.points():
        scalars = _scalars(point.values)
        writer.add_event(Event(wall_time=start_s + point.time_s, step=point.step, summary=scalars))
        last_step = point.step
    results = {f"result/{name}": value for name, value in run.results.items()}
    writer.add_event(Event(wall_time=start_s, step=last_step, summary=_scalars(results)))
    writer.close()


def _scalars(values: Mapping[str, float]) -> Summary:
    scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    return Summary(value=scalars)
