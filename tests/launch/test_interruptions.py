"""Without these, an interrupted run could be reported wrongly, leak processes, or not resume."""

import os
import signal

import psutil
import pytest
from command_line import all_end, command_process

pytestmark = pytest.mark.distributed

DDP = '[{ variant = "ddp", nproc = 2 }]'
AT_EVERY_STEP = ["launch.checkpoint_every=1"]


@pytest.mark.parametrize(
    ("number", "to_all"), [(signal.SIGTERM, False), (signal.SIGINT, True), (signal.SIGINT, False)]
)
def test_a_stopped_run_resumes_from_its_last_step(new_harness, number, to_all):
    """Ctrl-C reaches all processes, the ranks twice: from the terminal and from the launcher.

    No checkpoint was due yet.
    """
    study = new_harness.study('["slow"]', '["mha"]', DDP)
    fast = new_harness.slow_variant(later_s=1.5)
    process = new_harness.start("run", study, settings=["train.eval_every=100"])
    run = new_harness.wait_for_steps(process)
    children = psutil.Process(process.pid).children(recursive=True)
    if to_all:  # as a terminal does
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    process.communicate()
    assert process.returncode == 130 and all_end(children)
    n_done = len(run.steps())
    assert run.status.status == "interrupted" and f"after {n_done} of 8 steps" in run.status.message
    fast.touch()
    assert "1 of 1 done" in new_harness("run", study, settings=["train.eval_every=100"]).stderr
    assert run.probes.resumed_at == [n_done] and run.steps().step.tolist() == list(range(8))
    assert [line.step for line in run.evals()] == [0, 8]


def test_a_killed_study_leaves_no_process_and_resumes(new_harness):
    study = new_harness.study('["slow"]', '["mha"]', DDP)
    fast = new_harness.slow_variant(later_s=1.5)
    process = new_harness.start("run", study)
    run = new_harness.wait_for_steps(process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3  # the fork server and two ranks
    status = new_harness("status").stdout
    assert "running at step" in status and "last sign of life" in status
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL and all_end(children)
    assert run.status.status == "interrupted"
    fast.touch()
    assert "1 of 1 done" in new_harness("run", study).stderr
    assert len(run.steps()) == 8


def test_a_killed_rank_is_reported_as_killed(new_harness):
    """The other rank fails on a broken connection, which must not become the reason."""
    study = new_harness.study('["slow"]', '["mha"]', DDP)
    fast = new_harness.slow_variant(later_s=1.5)
    process = new_harness.start("run", study, settings=AT_EVERY_STEP)
    run = new_harness.wait_for_steps(process, 2, n_saved=1)
    servers = command_process(process.pid).children()
    ranks = [rank for server in servers for rank in server.children()]
    assert len(ranks) == 2
    ranks[1].kill()
    process.communicate()
    assert process.returncode == 1 and all_end(ranks)
    assert (run.status.status, run.status.reason) == ("failed", "killed")
    assert "SIGKILL" in run.status.message
    fast.touch()
    retried = new_harness("run", study, "--retry-failed", settings=AT_EVERY_STEP)
    assert "1 of 1 done" in retried.stderr
    assert run.probes.resumed_at and run.status.attempts == 2


HANGS = """
import os
import threading
import time
from pathlib import Path

from variants.base import Positional

HAS_HUNG = Path({has_hung!r})


def show_life():
    while not HAS_HUNG.exists():
        print("alive", flush=True)
        time.sleep(0.2)


if "RANK" in os.environ:
    threading.Thread(target=show_life, daemon=True).start()


class Hangs(Positional):
    def embed(self, x, positions):
        if self.training and not x.is_meta and os.environ.get("RANK") == "1":
            HAS_HUNG.touch()
            time.sleep(3600)
        return x
"""


def test_a_stalled_run_is_ended_with_the_stack_of_each_rank(new_harness):
    """Rank 0 waits for rank 1 inside a collective, where Python handles no signal.

    Before that both show that they live, however long they take to start.
    """
    study = new_harness.study('["hangs"]', '["mha"]', DDP)
    text = HANGS.replace("{has_hung!r}", repr(str(new_harness.folder / "has_hung")))
    (new_harness.folder / "mine/positional/hangs.py").write_text(text)
    new_harness("run", study, settings=["launch.stall_timeout_s=20"], code=1)
    (run,) = new_harness.runs()
    assert (run.status.status, run.status.reason) == ("failed", "timeout")
    assert "no sign of life for launch.stall_timeout_s = 20 s" in run.status.message
    log = run.log_path.read_text()
    assert "rank 0: no sign of life" in log
    assert "hangs.py" in log.partition("rank 1: no sign of life")[2]


def test_two_harnesses_share_a_study_and_run_nothing_twice(new_harness):
    study = new_harness.study(
        '["slow"]',
        '["mha", { variant = "gqa", n_kv_head = 2 }, { variant = "gqa", n_kv_head = 1 }]',
    )
    marks = new_harness.folder / "marks"
    marks.mkdir()
    mark = f"open({str(marks)!r} + f'/{{os.getpid()}}', 'w').close(); time.sleep(0.01)"
    new_harness.variant("slow", mark)
    first = new_harness.start("run", study)
    second = new_harness.start("run", study)
    for process in (first, second):
        _, err = process.communicate()
        assert process.returncode == 0 and "3 of 3 done" in err, err
    assert len(list(marks.iterdir())) == 3, "a process for each run"
    assert {run.status.attempts for run in new_harness.runs()} == {1}


def test_a_run_of_a_killed_harness_is_taken_over(new_harness):
    """The first harness is killed in the middle of a run while the second one waits for it."""
    study = new_harness.study('["slow"]')
    fast = new_harness.folder / "fast"
    new_harness.variant(
        "slow",
        "self.calls = getattr(self, 'calls', 0) + self.training\n"
        f"        while self.calls > 12 and not os.path.exists({str(fast)!r}):  # in step 3\n"
        "            time.sleep(0.05)",
    )
    first = new_harness.start("run", study, settings=AT_EVERY_STEP)
    run = new_harness.wait_for_steps(first, 3, n_saved=2)
    second = new_harness.start("run", study, settings=AT_EVERY_STEP)
    assert second.stderr is not None
    assert any("which another process runs" in line for line in second.stderr)  # it waits by now
    assert run.status.pid == command_process(first.pid).pid and run.status.attempts == 1
    first.kill()
    first.communicate()
    fast.touch()
    second.communicate()
    assert second.returncode == 0
    assert run.status.status == "done" and run.status.attempts == 2
    assert run.probes.resumed_at[0] >= 2


def test_a_folder_that_cannot_be_written_is_one_line(new_harness):
    study = new_harness.study('["learned"]')
    (new_harness.folder / "file").write_text("")
    err = new_harness("run", study, "--results", "file/results", code=2).stderr
    assert "error: " in err and "file" in err and "Traceback" not in err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_fails_the_run_and_keeps_its_records(new_harness):
    study = new_harness.study('["fills"]')
    body = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600)); "
        "signal.signal(25, signal.SIG_IGN)"
    )
    new_harness.variant("fills", f"exec({body!r}, globals()) if self.training else None")
    err = new_harness("run", study, code=1).stderr
    (run,) = new_harness.runs()
    assert (run.status.status, run.status.reason) == ("failed", "error"), (
        err + run.log_path.read_text()
    )
    assert "OSError" in run.status.message
    assert "(error: OSError" in new_harness("status").stdout
    new_harness("report", "s")
