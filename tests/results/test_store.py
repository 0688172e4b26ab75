"""What has been measured is not lost, and nothing else is read than what has been measured."""

import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from synthetic_results import SyntheticStudy, step_record

from harness.errors import StoreError
from harness.results.files import (
    read_json,
    write_json,
)
from harness.results.manage import size_bytes
from harness.results.records import (
    Environment,
    EvalRecord,
    LaunchRecord,
    Submission,
)
from harness.results.run import Run
from harness.results.store import Store


@pytest.fixture
def run(tmp_path):
    """A run that is planned and has not started."""
    run = Store(tmp_path / "results").run("study", "learned-mha-single-s0-12345678")
    run.create(spec())
    return run


def spec(**changes):
    study = SyntheticStudy(Path("results"))
    return study.spec("a", ("learned", "mha", "single"), 0, None, "a-s0", 1).model_copy(
        update=changes
    )


def append(run, rank, *records):
    file = run.steps_file(rank)
    for record in records:
        file.append(record)
    file.close()


# -- status ---------------------------------------------------------------------------------------


def test_a_run_goes_from_pending_to_running_to_done(run):
    assert run.status.status == "pending"
    run.mark_running()
    running = run.status
    assert (running.status, running.pid, running.host) == (
        "running",
        os.getpid(),
        platform.node(),
    )
    run.finish("done")
    done = run.status
    assert (done.status, done.reason) == ("done", None)
    assert done.started_at == running.started_at <= done.ended_at


def test_a_failure_keeps_its_reason(run):
    run.mark_running()
    run.finish("failed", "nan", "step 3: loss nan")
    assert run.status.model_dump(include={"status", "reason", "message"}) == {
        "status": "failed",
        "reason": "nan",
        "message": "step 3: loss nan",
    }


def test_a_run_whose_process_is_gone_reads_as_interrupted(run):
    """It would be shown as running forever, and `run` would never resume it."""
    run.mark_running()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write_json(run.path / "status.json", read_json(run.path / "status.json") | {"pid": gone.pid})
    assert (run.status.status, run.status.reason) == ("interrupted", "killed")


def test_a_dead_process_that_nobody_has_waited_for_is_gone(run):
    """In a container without an init, a killed run stays in the process table for ever."""
    run.mark_running()
    zombie = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = {"pid": zombie.pid, "pid_started": psutil.Process(zombie.pid).create_time()}
    write_json(run.path / "status.json", read_json(run.path / "status.json") | process)
    alive = run.status.status
    zombie.kill()
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    dead = run.status.status
    zombie.communicate()
    assert (alive, dead) == ("running", "interrupted")


def test_another_process_with_the_same_number_is_not_the_run(run):
    run.mark_running()
    status = read_json(run.path / "status.json")
    write_json(
        run.path / "status.json", status | {"pid_started": psutil.Process().create_time() - 3600}
    )
    assert run.status.status == "interrupted"


def test_of_another_machines_process_nothing_is_known(run):
    """On a shared file system, a run on another node must not be started a second time."""
    run.mark_running()
    status = read_json(run.path / "status.json")
    other = {"host": "another-node", "boot_id": None, "pid": 2**30}
    write_json(run.path / "status.json", status | other)
    assert run.status.status == "running"


def test_what_is_done_stays_done_though_its_process_is_gone(run):
    run.mark_running()
    run.finish("done")
    write_json(run.path / "status.json", read_json(run.path / "status.json") | {"pid": 2**30})
    assert run.status.status == "done"


def test_planning_again_changes_nothing_of_what_is_known(run):
    run.mark_running()
    run.finish("done")
    before = run.status
    run.create(spec(seed=99))
    assert run.status == before
    assert read_json(run.path / "spec.json")["seed"] == 0


def test_a_run_that_starts_again_is_started_as_was_asked_last(run):
    """Another time limit, or a trace; what it computes is in its id."""
    run.mark_running()
    run.finish("failed", "timeout", "too long")
    run.update_spec(spec(launch=spec().launch.model_copy(update={"timeout_s": 9.0})))
    assert (
        run.status.status == "failed"
        and read_json(run.path / "spec.json")["launch"]["timeout_s"] == 9
    )


def test_a_new_attempt_starts_from_an_empty_folder(run):
    """Steps of an earlier attempt before those of this one would be one curve with a fold."""
    run.mark_running()
    append(run, 0, step_record(0))
    append(run, 1, step_record(0))
    run.write_env(Environment(torch="1"))
    (run.path / "checkpoint").mkdir()
    (run.path / "checkpoint" / "model").write_text("x")
    run.finish("failed", "error", "x")
    run.mark_running()
    assert {path.name for path in run.path.iterdir()} == {"spec.json", "status.json"}
    assert run.status.status == "running" and run.status.message is None
    assert run.spec.seed == spec().seed


def test_what_is_not_there_yet_is_empty(run):
    assert (
        run.env,
        run.probes,
        run.evals(),
        run.log_tail(),
        run.last_step(),
        len(run.steps()),
    ) == (
        None,
        None,
        [],
        [],
        None,
        0,
    )


# -- steps ----------------------------------------------------------------------------------------


def test_a_steps_time_is_the_slowest_ranks(run):
    """All ranks wait for it; a mean or a sum would be a speed that no run has."""
    append(run, 0, step_record(0, step_s=0.1, warmup=True), step_record(1, step_s=0.4))
    append(run, 1, step_record(0, step_s=0.3, warmup=True), step_record(1, step_s=0.2))
    steps = run.steps()
    assert steps.step_s.tolist() == [0.3, 0.4]
    assert steps.step.tolist() == [0, 1]
    assert steps.tokens.tolist() == [64, 64]
    assert steps.warmup.tolist() == [True, False]


def test_only_steps_that_every_rank_has_recorded_count(run):
    append(run, 0, step_record(0), step_record(1), step_record(2))
    append(run, 1, step_record(0), step_record(1))
    (run.path / "steps.rank2.jsonl").write_text(
        step_record(0).model_dump_json() + "\n" + step_record(1).model_dump_json()[:20]
    )
    assert run.steps().step.tolist() == [0]
    append(run, 3)
    assert len(run.steps()) == 0


def test_a_loss_that_is_no_number_reads_back_as_nan(run):
    """A run that broke shows as such, and not as the number 0."""
    append(run, 0, step_record(0), step_record(1, loss=math.nan, grad_norm=math.inf))
    steps = run.steps()
    assert steps.loss[0] == 2.0 and math.isnan(steps.loss[1]) and math.isnan(steps.grad_norm[1])
    assert '"loss":null' in (run.path / "steps.rank0.jsonl").read_text()


def test_more_than_ten_ranks_keep_their_order(run):
    for rank in range(12):
        append(run, rank, step_record(0, step_s=float(rank + 1), loss=2.0))
    assert run.steps().step_s.tolist() == [12.0]


def test_the_last_step_is_the_newest_whole_line(run):
    """What `status` and the progress line show; they look often, and files get long."""
    append(run, 0, *(step_record(step) for step in range(200)))
    assert (run.path / "steps.rank0.jsonl").stat().st_size > 3 * 4096
    assert run.last_step().step == 199
    with open(run.path / "steps.rank0.jsonl", "a") as file:
        file.write('{"step": 200, "loss"')
    assert run.last_step().step == 199


@pytest.mark.parametrize("text", ["", "{", '{"step": 0'])
def test_before_the_first_whole_line_there_is_no_last_step(run, text):
    (run.path / "steps.rank0.jsonl").write_text(text)
    assert run.last_step() is None


def test_evaluations_come_in_order(run):
    file = run.eval_file()
    for step in (0, 10, 20):
        record = EvalRecord(step=step, val_loss=3.0, bits_per_byte=4.3, train_s=1.0, eval_s=0.1)
        file.append(record)
    file.close()
    assert [record.step for record in run.evals()] == [0, 10, 20]


def test_the_logs_tail_is_its_last_lines_whatever_bytes_it_holds(run):
    run.log_path.write_bytes(b"".join(b"line %d \xff\n" % i for i in range(50)))
    tail = run.log_tail(3)
    assert [text.split()[1] for text in tail] == ["47", "48", "49"]


# -- the whole store ------------------------------------------------------------------------------


def test_pruning_never_removes_a_run_that_has_started(tmp_path):
    """An edited study must not delete hours of results."""
    results = Store(tmp_path)
    submission = Submission(id="1", name="ablations-study-1", elements=[["submitted"]])
    results.record_submission("study", submission)
    for name in ("pending", "kept", "submitted", "running", "done", "failed", "interrupted"):
        run = results.run("study", name)
        run.create(spec())
        if name not in ("pending", "kept", "submitted"):
            run.mark_running()
        if name in ("done", "failed", "interrupted"):
            run.finish(name)
    killed = results.run("study", "killed")
    killed.create(spec())
    killed.mark_running()
    status = read_json(killed.path / "status.json")
    write_json(killed.path / "status.json", status | {"pid_started": 0.0})
    other = results.run("another", "pending")
    other.create(spec())

    results.prune_pending("study", keep={"kept"})

    assert {run.run_id for run in results.runs("study")} == {
        "kept",
        "submitted",
        "running",
        "done",
        "failed",
        "interrupted",
        "killed",
    }
    assert other.path.exists()


def test_launches_are_kept_in_order_and_name_the_studies(tmp_path):
    results = Store(tmp_path)
    assert results.studies() == [] and results.launches("b") == []
    for study, order in (("b", ["x"]), ("a", ["y"]), ("b", ["x", "z"])):
        results.record_launch(study, LaunchRecord(command="run", order=order))
    assert results.studies() == ["a", "b"]
    first, second = results.launches("b")
    assert (first.order, second.order) == (["x"], ["x", "z"])
    assert first.at <= second.at


def test_runs_are_those_that_were_planned(tmp_path):
    results = Store(tmp_path)
    results.run("study", "b").create(spec())
    results.run("study", "a").create(spec())
    (tmp_path / "study" / "stray").mkdir()
    assert results.runs("study") == [Run(tmp_path / "study" / "a"), Run(tmp_path / "study" / "b")]


def test_the_store_needs_no_torch():
    """Results are read and reported on any machine, at once."""
    code = "import sys, harness.results.store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("content", ["", "[1]", '{"status": "do', "null"])
def test_a_damaged_file_is_named_with_the_remedy(tmp_path, content):
    (tmp_path / "status.json").write_text(content)
    with pytest.raises(
        StoreError, match=r"status\.json: unreadable .*; remove its folder to run that entry again"
    ):
        read_json(tmp_path / "status.json")


def test_a_claimed_run_cannot_be_claimed_again(tmp_path):
    """Otherwise two processes would train the same run."""
    path = tmp_path / "study/run"
    claim = Run(path).claim()
    assert claim is not None
    assert Run(path).claim() is None
    claim.release()
    assert Run(path).claim() is not None


def test_a_checkpoint_that_vanishes_does_not_end_the_watch(run, monkeypatch):
    """The newest checkpoint replaces older ones while the launcher looks for activity."""
    gone = run.path / "checkpoint" / "step-8"
    gone.mkdir(parents=True)
    scandir = os.scandir

    def vanishing(folder="."):
        if Path(folder) == gone:
            raise FileNotFoundError(folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert run.last_activity() >= run.path.stat().st_mtime
    assert size_bytes(run.path) > 0
