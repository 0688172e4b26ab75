"""A study of variants, a setting, sizes and seeds: listed, run, resumed, reported, exported."""

import json
import socket
import tomllib

import pytest
from command_line import Harness

from harness import load
from harness.training.main import run_worker
from harness.training.signals import StopRequest

AXES = """
"train.lr" = [1e-3, 1e-2]
size = [
    { label = "S", "model.n_layer" = 1, "model.n_embd" = 16, "train.steps" = 2 },
    { label = "M", "model.n_layer" = 2, "model.n_embd" = 32, "train.steps" = 3 },
]
"""
ENV = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
}
N_RUNS = 2 * 2 * 2 * 2


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


class RunsHere:
    """Trains each run in this process, in place of starting others."""

    def __init__(self, monkeypatch) -> None:
        self.started: list[str] = []
        self.stop_after: int | None = None
        self._monkeypatch = monkeypatch

    def __call__(self, run, launch) -> None:
        if len(self.started) == self.stop_after:
            raise KeyboardInterrupt
        self.started.append(run.run_id)
        run.mark_running()
        with self._monkeypatch.context() as patch:
            for name, value in (ENV | {"MASTER_PORT": free_port()}).items():
                patch.setenv(name, value)
            # A thread, which cannot set handlers of signals, calls this.
            patch.setattr(StopRequest, "on_signals", StopRequest)
            patch.setattr(StopRequest, "restore_handlers", lambda stop: None)
            run_worker(run.path, run.claim_number)


@pytest.fixture
def here(start_runs_by, monkeypatch) -> RunsHere:
    return start_runs_by(RunsHere(monkeypatch))


@pytest.fixture
def harness(tmp_path):
    harness = Harness(tmp_path)
    path = harness.study('["learned"]', '["mha", "mqa"]')
    text = path.read_text().replace("seeds = [0]", 'seeds = [0, 1]\ncompare = ["attention"]')
    text = text.replace("eval_every = 4", "eval_every = 2\neval_tokens = 256")
    path.write_text(text + AXES + '[launch]\nkeep_checkpoints = "none"\n')
    yield harness
    harness.stop()


def test_a_study_of_settings_is_run_resumed_and_reported(harness, here, no_figures):
    listed = json.loads(harness("list", "study.toml", "--json").stdout)["entries"]
    assert len(listed) == N_RUNS and {run["size"] for run in listed} == {"S", "M"}
    assert {run["steps"] for run in listed if run["size"] == "M"} == {3}
    here.stop_after = 5
    with pytest.raises(KeyboardInterrupt):
        harness("run", "study.toml", "--seeds", "0,1")
    here.stop_after = None
    harness("run", "study.toml", where=["size=S", "train.lr=0.01"])
    harness("run", "study.toml")
    assert sorted(here.started) == sorted(run["run_id"] for run in listed)
    assert f"{N_RUNS} runs: {N_RUNS} done" in harness("status", "study.toml").stdout
    for run in harness.runs():
        spec = run.spec
        assert len(run.steps()) == spec.train.steps == (2 if spec.model.n_layer == 1 else 3)
        assert run.status.status == "done"
    harness("report", "study.toml")
    report = (harness.folder / "reports/s/report.md").read_text()
    assert "lr 0.01" in report and "MQA" in report
    harness("export", "study.toml", "--to", "csv")
    study = load(harness.folder / "results", study="s")
    assert {"attention", "train.lr", "size"} <= set(study.runs.columns)
    by_size = study.runs.groupby("size", observed=True)["parameters"].max()
    assert by_size["S"] < by_size["M"]
    compared = study.comparisons.set_index("entry")
    assert len(compared) == 4
    for entry, row in compared.iterrows():
        assert row["against"] == entry.replace("mqa", "mha") and row["differs"] == ("attention",)


def test_a_study_of_corpora_is_written_to_be_repeated(harness, here, tmp_path):
    path = harness.folder / "study.toml"
    text = path.read_text().replace(AXES, '"data.corpus" = ["text.txt", "more/text.jsonl"]\n')
    path.write_text(text.replace("steps = 8", "steps = 2"))
    (harness.folder / "more").mkdir()
    lines = (json.dumps({"text": f"Number {i} of the lines."}) for i in range(100))
    (harness.folder / "more/text.jsonl").write_text("\n".join(lines))
    harness("run", "study.toml", "--seeds", "0")
    folder = tmp_path / "again"
    harness("reproduce", "results/s", folder)
    script = (folder / "run.sh").read_text()
    (setting,) = [part for part in script.split("'") if part.startswith("axes.data.corpus=")]
    key, _, value = setting.partition("=")
    corpora = tomllib.loads(f"corpora = {value}")["corpora"]
    assert corpora == [str(harness.folder / name) for name in ("text.txt", "more/text.jsonl")]
    stored = {run.run_id for run in harness.runs()}
    arguments = ("list", folder / "study.toml", "--json", "--seeds", "0")
    paths = ["study.variant_paths=[]", setting]
    listed = json.loads(harness(*arguments, settings=paths).stdout)["entries"]
    assert {run["run_id"] for run in listed} == stored and key == "axes.data.corpus"
