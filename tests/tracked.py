"""Read back what the trackers hold: the curves of each run by name, as steps and values."""

import struct
from pathlib import Path

Curves = dict[str, list[tuple[int, float]]]


def read_tensorboard(folder: Path, study: str) -> dict[str, Curves]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runs = {}
    for path in folder.iterdir():
        events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
        runs[path.name] = {
            tag: [(event.step, event.value) for event in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
        }
    return runs


def read_mlflow(folder: Path, study: str) -> dict[str, Curves]:
    runs = {}
    for run in mlflow_runs(folder, study).values():
        runs[run.info.run_name] = {
            name: sorted((one.step, one.value) for one in run.history(name))
            for name in run.data.metrics
        }
    return runs


def mlflow_runs(folder: Path, study: str) -> dict[str, object]:
    """Return the runs by name; each has `history`, all values of a metric."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name(study)
    runs = {}
    for run in client.search_runs([experiment.experiment_id]):
        assert run.info.run_name not in runs, "a run is there twice"
        run.history = lambda name, id=run.info.run_id: client.get_metric_history(id, name)
        runs[run.info.run_name] = run
    return runs


def read_wandb(folder: Path, study: str) -> dict[str, Curves]:
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # as the end of a process does: it writes what is left
    runs = {}
    for path in folder.glob("wandb/offline-run-*/run-*.wandb"):
        curves: Curves = {}
        for content in _leveldb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(content)
            for item in record.history.item:
                name = item.key or ".".join(item.nested_key)
                if not name.startswith("_"):
                    step = record.history.step.num
                    curves.setdefault(name, []).append((step, float(item.value_json)))
        run_id = path.stem.removeprefix("run-")
        assert run_id not in runs, "a run is there twice"
        runs[run_id] = curves
    return runs


def _leveldb_records(content: bytes):
    """Yield the records of a LevelDB log: blocks of 32 KiB, records split into marked parts."""
    position = 7  # after the file's own head
    parts = []
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        parts.append(content[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


READ = {"tensorboard": read_tensorboard, "wandb": read_wandb, "mlflow": read_mlflow}
