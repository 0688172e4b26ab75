"""A folder of TensorBoard events for each run: curves at the times they were recorded, and the HParams tab.

TensorBoard keeps scalars as 32-bit floats.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import summary_v2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from harness.export.frames import Record, shown


def write(study: str, records: Sequence[Record], folder: Path, place: Path) -> str:
    """Write a folder for each run id."""
    for record in shown(records):
        writer = EventFileWriter(str(folder / record.run.run_id))
        began, last = record.began, 0
        asked = summary_v2.hparams_pb(
            record.settings, trial_id=record.run.run_id, start_time_secs=began
        )
        writer.add_event(Event(wall_time=began, summary=asked))
        for step, at, values in record.points():
            writer.add_event(
                Event(wall_time=began + at, step=step, summary=_scalars(values.items()))
            )
            last = step
        results = ((f"result/{name}", value) for name, value in record.metrics.items())
        writer.add_event(Event(wall_time=began, step=last, summary=_scalars(results)))
        writer.close()
    return f"tensorboard --logdir {place}"


def _scalars(values: Iterable[tuple[str, float]]) -> Summary:
    return Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values])
