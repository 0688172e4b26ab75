"""A live run is in the tracker as its export is, once, and no tracker disturbs the runs."""

import importlib
import queue
import shutil
import subprocess
import sys
import time

import pytest
from synthetic_results import SyntheticStudy
from tracked import READ, mlflow_runs

from harness.analysis import dataset
from harness.cli import app as cli
from harness.export import REQUIREMENTS, export, missing_packages
from harness.export.follow import NextRun, RunFollower, follow
from harness.launch import trackers
from harness.launch.trackers import Trackers
from harness.study.study_file import StudyFile

STEPS_PER_POLL = 3
RESUMED_AT = 4
TRACKERS = [
    pytest.param(name, marks=pytest.mark.skipif(missing_packages(name) is not None, reason=name))
    for name in READ
]
pytestmark = pytest.mark.filterwarnings("ignore")  # of the tools' own


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda fd: None)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # whoever is asked does not answer
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)


@pytest.fixture
def study(tmp_path):
    """A study of one entry on two processes, with two seeds."""
    axes = {"positional": ["rope"], "parallelism": ["ddp2"]}
    baseline = {axis: labels[0] for axis, labels in axes.items()}
    return SyntheticStudy(
        tmp_path / "results", axes=axes, baseline=baseline, seeds=(0, 1), eval_every=2
    ).write()


class Replay:
    """Train a finished run again: its lines are appended bit by bit, as training writes them."""

    def __init__(self, run):
        self.run = run
        self.ranks = [run.steps_path(rank) for rank in range(run.spec.launch.world_size)]
        self.lines = [path.read_bytes().splitlines(keepends=True) for path in self.ranks]
        self.evals = run.evals()
        self.eval_lines = run.evals_path.read_bytes().splitlines(keepends=True)
        self.probes = (run.path / "probes.json").read_bytes()
        self.status = run.status

    def start(self):
        """Start an attempt; one that resumes finds a checkpoint at `RESUMED_AT`."""
        earlier = self.run.status.started_at
        time.sleep(0.002)  # another time of start
        self.run.mark_running()
        if self.run.status.attempts > 1:
            for rank in range(len(self.ranks)):
                self.run.truncate_steps(rank, RESUMED_AT)
            kept = [record for record in self.evals if record.step <= RESUMED_AT]
            self.run.truncate_evals(len(kept))
        return NextRun(self.run, earlier)

    def reset(self):
        self.run.finish("failed", "error", "to start anew")

    def train(self, begin, end, follower=None):
        for step in range(begin, end):
            self._evaluate(step)
            for path, lines in zip(self.ranks, self.lines, strict=True):
                append(path, lines[step])
            if follower is not None and step % STEPS_PER_POLL == 0:
                append(self.ranks[0], b'{"step": 1')  # torn
                follower.poll()
                self.ranks[0].write_bytes(self.ranks[0].read_bytes()[: -len(b'{"step": 1')])

    def _evaluate(self, n_done):
        for record, line in zip(self.evals, self.eval_lines, strict=True):
            if record.step == n_done:
                append(self.run.evals_path, line)

    def finish(self):
        self._evaluate(len(self.lines[0]))
        (self.run.path / "probes.json").write_bytes(self.probes)
        self.run.finish("done")


def append(path, content):
    with open(path, "ab") as file:
        file.write(content)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """The exports of the study by tool: MLflow takes seconds to create a store."""
    return {}, tmp_path_factory.mktemp("exports")


@pytest.fixture
def live_folder(request, study, exports, tmp_path):
    """A folder that has an export of the study, and what is read from it."""
    to = request.getfixturevalue("to")
    by_tool, out = exports
    if to not in by_tool:
        by_tool[to], _ = export(dataset.read(study.store, study.name), to, out)
    folder = tmp_path / "live"
    shutil.copytree(by_tool[to], folder)
    return folder, READ[to](folder, study.name)


def new_follower(replay, to, folder):
    """Start an attempt, and follow it as another process would."""
    if to == "wandb":
        importlib.import_module("wandb").teardown()
    start = importlib.import_module(f"harness.export.{to}").start
    return RunFollower(replay.start(), start, folder)


def runs_of(study):
    return study.store.runs(study.name)


@pytest.mark.parametrize("to", TRACKERS)
def test_live_runs_look_as_their_export_does(study, live_folder, to):
    folder, expected = live_folder
    for run in runs_of(study):
        replay = Replay(run)
        replay.reset()
        follower = new_follower(replay, to, folder)
        replay.train(0, len(replay.lines[0]), follower)
        replay.finish()
        follower.close()
    assert len(expected) == 2 and READ[to](folder, study.name) == expected


@pytest.mark.parametrize("to", TRACKERS)
def test_a_resumed_run_continues_without_duplicates(study, live_folder, to):
    """The first attempt got further than its checkpoint, and its launcher was killed."""
    folder, expected = live_folder
    replay = Replay(runs_of(study)[0])
    replay.reset()
    follower = new_follower(replay, to, folder)
    replay.train(0, RESUMED_AT + 4, follower)
    replay.run.finish("interrupted", "killed", "stopped")
    follower.close()
    if to == "mlflow":
        assert mlflow_runs(folder, study.name)[replay.run.run_id].info.status == "KILLED"
    follower = new_follower(replay, to, folder)
    replay.train(RESUMED_AT, len(replay.lines[0]), follower)
    replay.finish()
    follower.close()
    assert READ[to](folder, study.name) == expected


@pytest.mark.parametrize("to", TRACKERS)
def test_a_run_that_starts_anew_replaces_its_points(study, live_folder, to):
    folder, _ = live_folder
    replay = Replay(runs_of(study)[0])
    for n_steps in (6, 3):
        replay.reset()
        follower = new_follower(replay, to, folder)
        replay.train(0, n_steps, follower)
        replay.run.finish("failed", "nan", "the loss is not finite")
        follower.close()
    curves = READ[to](folder, study.name)[replay.run.run_id]
    assert [step for step, _ in curves["train/loss"]] == [1, 2, 3]
    assert "result/val_loss" not in curves
    if to == "mlflow":
        assert mlflow_runs(folder, study.name)[replay.run.run_id].info.status == "FAILED"


def test_a_tracker_that_raises_loses_only_that_run(study, tmp_path, capsys):
    opened = []

    class Full:
        next_step = 0

        def log(self, points):
            raise OSError(28, "No space left on device")

        def finish(self, end):
            raise AssertionError("a run that was given up is not finished")

    class Whole:
        next_step = 0

        def log(self, points):
            opened.append(len(points))

        def finish(self, end):
            opened.append(end.status)

    def start(run, folder, continues):
        return Full() if run.settings["seed"] == 0 else Whole()

    messages = queue.Queue()
    for run in runs_of(study):
        messages.put(NextRun(run, None))
    messages.put(None)
    follow(messages, start, tmp_path)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 and "-s0-" in printed[0] and "No space left" in printed[0]
    assert sum(opened[:-1]) == 13 and opened[-1] == "done"  # 12 steps, and the first evaluation


@pytest.mark.parametrize("to", TRACKERS)
def test_runs_that_train_at_once_are_all_followed(study, live_folder, to):
    folder, expected = live_folder
    start = importlib.import_module(f"harness.export.{to}").start
    replays = [Replay(run) for run in runs_of(study)]
    for replay in replays:
        replay.reset()
    followers = [new_follower(replays[0], to, folder)]
    followers.append(RunFollower(replays[1].start(), start, folder))
    for step in range(len(replays[0].lines[0])):
        for replay, follower in zip(replays, followers, strict=True):
            replay.train(step, step + 1)
            follower.poll()
    for replay in replays:
        replay.finish()
    assert all(follower.has_ended for follower in followers)
    for follower in followers:
        follower.close()
    assert READ[to](folder, study.name) == expected


FOLLOWERS = {
    "hangs": "import time; time.sleep(60)",
    "ends": "raise SystemExit(3)",
    "warns": "print('a: full', flush=True); print('b: full', flush=True); input()",
}


@pytest.mark.parametrize("kind", FOLLOWERS)
def test_no_follower_stalls_or_fails_a_launch(study, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(trackers, "END_TIMEOUT_S", 1.0)
    logged = []
    started = []
    with Trackers(["wandb"], study.store, study.name, logged.append, tmp_path) as followed:
        follower = followed._followers[0]
        follower._command = [sys.executable, "-c", FOLLOWERS[kind]]
        start = followed.followed(lambda run, launch: started.append(run.run_id))
        for run in runs_of(study) * 1000:  # more than a pipe holds
            start(run, run.spec.launch)
    assert len(started) == 2000
    warnings = [line for line in logged if "WARNING: wandb" in line]
    assert len(warnings) == 1 and "export --to wandb" in warnings[0]
    assert follower._process.wait(10) is not None


def test_without_trackers_nothing_is_imported_or_started(study):
    with Trackers([], study.store, study.name, print) as followed:
        assert followed.followed(runs_of) is runs_of
    code = (
        "import sys, harness.cli.run, harness.launch.trackers\n"
        "assert not [name for name in sys.modules if name.startswith('harness.export')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_package_is_refused_before_anything_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(REQUIREMENTS, "wandb", {"not_installed": "wandb"})
    monkeypatch.setattr("harness.launch.fork_server.start_fork_server", lambda: None)
    monkeypatch.setattr("harness.preflight.check_study", None)  # is not reached
    arguments = ["run", "ablations.toml", "--set", 'log.to=["wandb"]', "--results"]
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, str(tmp_path / "results")])
    message = capsys.readouterr().err
    assert stop.value.code == 2 and not list(tmp_path.iterdir())
    assert "log.to" in message and "pip install 'ablations[wandb]'" in message


def test_the_choice_of_trackers_is_checked():
    sections = {"study": {"name": "a", "seeds": [0]}, "model": {}, "data": {}, "train": {}}
    assert StudyFile.model_validate(sections).log.to == []
    for to in (["wandb", "wandb"], ["comet"], "wandb"):
        with pytest.raises(ValueError, match=r"log\.to"):
            StudyFile.model_validate(sections | {"log": {"to": to}})


def test_every_tracker_can_be_exported_to():
    assert READ.keys() <= REQUIREMENTS.keys()
