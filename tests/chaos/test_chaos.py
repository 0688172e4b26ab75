"""`make chaos`: many random kills change no bit of the curves (KILLS, SEED)."""

import os
import random
import signal

import pytest
from command_line import Harness, all_end, command_process
from kill_runs import KilledStudy

from harness.report import write
from harness.results.store import Store


def test_many_kills_leave_the_curves_unchanged(tmp_path):
    n_kills = int(os.environ.get("KILLS", "50"))
    seed = int(os.environ.get("SEED", random.randrange(1_000_000)))
    study = KilledStudy(tmp_path, seed)
    curves = study.run_undisturbed()
    round_ = 0
    while study.kills.total() < n_kills:
        results = f"round{round_}"
        study.run_with_kills(results, n_kills - study.kills.total())
        print(f"{study.kills.total()} kills: {dict(study.kills)}")
        assert study.curves(results) == curves
        report = write(Store(tmp_path / results), "chaos", tmp_path / "reports")
        assert (report / "report.md").exists()
        round_ += 1
    assert study.all_end()


ENDS = {  # process, signal, reason and message of the run that fails
    "killed rank": ("rank", signal.SIGKILL, "killed", "rank 1: SIGKILL"),
    "stopped rank": ("rank", signal.SIGSTOP, "lost", "no answer from rank 1"),
    "killed fork server": ("server", signal.SIGKILL, "killed", "the fork server"),
}


@pytest.mark.parametrize(("name", "number", "reason", "message"), ENDS.values(), ids=ENDS)
def test_a_process_that_is_gone_is_named_and_its_run_resumes(
    tmp_path, name, number, reason, message
):
    harness = Harness(tmp_path)
    study = harness.study('["slow"]', '["mha"]', '[{ variant = "ddp", nproc = 2 }]')
    fast = tmp_path / "fast"
    harness.variant(
        "slow", f"time.sleep(0.3 if self.training and not os.path.exists({str(fast)!r}) else 0)"
    )
    settings = ["launch.checkpoint_every=1", "launch.stall_timeout_s=20"]
    try:
        process = harness.start("run", study, settings=settings)
        run = harness.wait_for_steps(process, 2, n_saved=1)
        children = command_process(process.pid).children()
        (server,) = (child for child in children if child.children())
        ranks = sorted(server.children(), key=lambda rank: rank.pid)  # by the order of their start
        {"server": server, "rank": ranks[1]}[name].send_signal(number)
        _, err = process.communicate(timeout=200)
        assert process.returncode == 1 and all_end([server, *ranks]), err
        assert (run.status.status, run.status.reason) == ("failed", reason), run.status.message
        assert message in run.status.message
        fast.touch()
        harness.process("run", study, "--retry-failed", settings=settings)
        assert run.status.status == "done" and run.probes.resumed_at[0] >= 1
    finally:
        harness.stop()
