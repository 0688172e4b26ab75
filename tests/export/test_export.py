"""Other tools get the numbers of the store, each run once."""

import csv
import importlib.util
import math

import numpy as np
import pytest
from synthetic_results import SyntheticStudy
from tracked import read_wandb

from harness.analysis import dataset as accounting
from harness.analysis import metrics as results
from harness.cli import app as cli
from harness.errors import UserError
from harness.export import REQUIREMENTS, export

FAILED, PENDING = "rope-gqa2-single-s1", "rope-mha-single-s0"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study in which one run failed on the way and one has not begun."""
    monkeypatch.setattr("os.fsync", lambda fd: None)
    fake = SyntheticStudy(tmp_path / "results", seeds=(0, 1))
    fake.axes["parallelism"] = ["single"]
    fake.outcome = {FAILED: ("failed", "oom", "too large"), PENDING: ("pending", None, None)}
    fake.write()
    return accounting.read(fake.store, fake.name)


def needing(*modules):
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def runs(study):
    """Return the runs that have recorded something, by their id."""
    found = {run.run_id: run for run in study.runs if len(run.steps)}
    assert len(found) == 11 and not any(PENDING in run_id for run_id in found)
    return found


def read(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def same(cells, values):
    assert [math.nan if cell in ("", None) else float(cell) for cell in cells] == pytest.approx(
        values, rel=0, nan_ok=True
    )


def test_csv_has_every_number_as_it_was_recorded(study, tmp_path):
    folder, _ = export(study, "csv", tmp_path / "out")
    tables = {path.stem: read(path) for path in folder.iterdir()}
    assert tables.keys() == {"runs", "steps", "evals"}
    for run_id, run in runs(study).items():
        steps = [row for row in tables["steps"] if row["run_id"] == run_id]
        for name in ("step", "loss", "step_s", "tokens", "grad_norm", "lr"):
            same([row[name] for row in steps], getattr(run.steps, name).tolist())
        assert [row["warmup"] == "true" for row in steps] == run.steps.warmup.tolist()
        evals = [row for row in tables["evals"] if row["run_id"] == run_id]
        same([row["val_loss"] for row in evals], run.evals.val_loss.tolist())
        row = next(row for row in tables["runs"] if row["run_id"] == run_id)
        assert row["status"] == run.status and row["seed"] == str(run.seed)
        assert {axis: row[axis] for axis in run.labels} == run.labels
        assert (row["model.n_embd"], row["train.lr"]) == ("64", "0.001")
        assert row["entry_title"] == " · ".join(run.labels.values())  # these have no titles
        same([row["val_loss"]], [run.evals.val_loss[-1] if run.status == "done" else math.nan])
        same([row["step_s"]], [np.median(run.timed_step_s) if run.status == "done" else math.nan])


@needing("pyarrow")
def test_parquet_has_the_same_with_types(study, tmp_path):
    import pyarrow.parquet as pq

    folder, _ = export(study, "parquet", tmp_path / "out")
    steps = pq.read_table(folder / "steps.parquet").to_pydict()
    expected = [
        (run_id, int(run.steps.step[i]), float(run.steps.loss[i]), bool(run.steps.warmup[i]))
        for run_id, run in runs(study).items()
        for i in range(len(run.steps))
    ]
    found = zip(steps["run_id"], steps["step"], steps["loss"], steps["warmup"], strict=True)
    assert sorted(found) == sorted(expected)
    table = pq.read_table(folder / "runs.parquet")
    failed = next(row for row in table.to_pylist() if FAILED in row["run_id"])
    assert (
        failed["val_loss"] is None and failed["reason"] == "oom" and failed["steps_recorded"] == 6
    )
    assert str(table.schema.field("peak_memory_bytes").type) == "int64"


@needing("tensorboard")
def test_tensorboard_reads_curves_and_results(study, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = export(study, "tensorboard", tmp_path / "out")
    for run_id, run in runs(study).items():
        events = EventAccumulator(str(folder / run_id)).Reload()
        loss = events.Scalars("train/loss")
        assert [event.step for event in loss] == (run.steps.step + 1).tolist()
        assert [event.value for event in loss] == pytest.approx(
            run.steps.loss.tolist(), rel=1e-6
        )  # 32 bits
        assert [event.value for event in events.Scalars("val/loss")] == pytest.approx(
            run.evals.val_loss, rel=1e-6
        )
        assert loss[-1].wall_time - loss[0].wall_time == pytest.approx(
            run.steps.step_s[1:].sum(), abs=1e-3
        )
        if run.status == "done":
            assert events.Scalars("result/val_loss")[0].value == pytest.approx(
                run.evals.val_loss[-1], rel=1e-6
            )
        assert "_hparams_/session_start_info" in events.summary_metadata


@needing("mlflow", "sqlalchemy", "alembic")
@pytest.mark.filterwarnings("ignore")  # of the tool's own
def test_mlflow_reads_curves_settings_and_how_a_run_ended(study, tmp_path):
    from mlflow import MlflowClient

    folder, _ = export(study, "mlflow", tmp_path / "out")
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name(study.name)
    found = {one.info.run_name: one for one in client.search_runs([experiment.experiment_id])}
    assert found.keys() == runs(study).keys()
    for run_id, run in runs(study).items():
        history = client.get_metric_history(found[run_id].info.run_id, "train/loss")
        assert [(one.step, one.value) for one in sorted(history, key=lambda one: one.step)] == list(
            zip((run.steps.step + 1).tolist(), run.steps.loss.tolist(), strict=True)
        )
        assert found[run_id].data.params["attention"] == run.labels["attention"]
        assert found[run_id].data.params["train.lr"] == "0.001"
        assert found[run_id].data.params["entry_title"] == " · ".join(run.labels.values())
        assert found[run_id].info.status == ("FINISHED" if run.status == "done" else "FAILED")
        if run.status == "done":
            assert found[run_id].data.metrics["result/val_loss"] == run.evals.val_loss[-1]


@needing("wandb")
@pytest.mark.filterwarnings("ignore")  # of the tool's own
def test_wandb_keeps_an_offline_run_for_each_run(study, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # whoever is asked does not answer
    folder, then = export(study, "wandb", tmp_path / "out")
    assert str(folder) in then
    found = {}
    for run_id, curves in read_wandb(folder, study.name).items():
        found[run_id] = [value for _, value in curves["train/loss"]]
    assert found == {run_id: run.steps.loss.tolist() for run_id, run in runs(study).items()}


@pytest.mark.parametrize(
    "to", ["csv", pytest.param("mlflow", marks=needing("mlflow", "sqlalchemy", "alembic"))]
)
@pytest.mark.filterwarnings("ignore")
def test_exporting_again_replaces_only_that_export(study, tmp_path, to):
    other = tmp_path / "out" / study.name / "mine.txt"
    folder, _ = export(study, to, tmp_path / "out")
    other.write_text("mine")
    (folder / "old").write_text("of an earlier export")
    first = {path.name for path in folder.iterdir()} - {"old"}
    export(study, to, tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == first and other.read_text() == "mine"
    assert {path.name for path in folder.parent.iterdir()} == {to, "mine.txt"}


def test_what_fails_half_way_leaves_the_last_export(study, tmp_path, monkeypatch):
    folder, _ = export(study, "csv", tmp_path / "out")
    before = (folder / "steps.csv").read_bytes()
    monkeypatch.setattr("pandas.DataFrame.to_csv", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(study, "csv", tmp_path / "out")
    assert (folder / "steps.csv").read_bytes() == before and len(list(folder.parent.iterdir())) == 1


def test_a_speed_that_the_report_omits_is_not_exported(study, tmp_path, monkeypatch):
    label = study.entries[-1].label
    monkeypatch.setattr(
        "harness.analysis.equivalence.by_entry", lambda _: {label: results.DIVERGES}
    )
    folder, _ = export(study, "csv", tmp_path / "out")
    rows = [row for row in read(folder / "runs.csv") if row["status"] == "done"]
    assert {row["tokens_per_s"] == "" for row in rows if row["entry"] == label} == {True}
    assert {row["tokens_per_s"] == "" for row in rows if row["entry"] != label} == {False}


@pytest.mark.parametrize("to", [name for name in REQUIREMENTS if REQUIREMENTS[name]])
def test_a_tool_that_is_not_there_is_named_with_what_installs_it(study, tmp_path, monkeypatch, to):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"pip install 'ablations\[{to}\]'"):
        export(study, to, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_from_the_command_line(study, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(
            [
                "export",
                "tiny",
                "--to",
                "csv",
                "--results",
                str(tmp_path / "results"),
                "--out",
                str(tmp_path / "o"),
            ]
        )
    printed = capsys.readouterr()
    assert stop.value.code == 0 and printed.out.strip() == str(tmp_path / "o" / "tiny" / "csv")
    assert "left out: 1 runs without recorded steps" in printed.err
