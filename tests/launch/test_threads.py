"""Without these, a run could not start from a thread, or would hang there forever."""

import psutil
import pytest

from harness.launch.cores import cores as usable_cores

pytestmark = pytest.mark.distributed

IN_A_THREAD = """
import sys
import threading

from harness.cli.app import main

codes = []


def run():
    try:
        main(sys.argv[1:])
    except SystemExit as end:
        codes.append(end.code)


thread = threading.Thread(target=run)
thread.start()
thread.join()
sys.exit(codes[0])
"""
TWO_PROCESSES = '[{ variant = "ddp", nproc = 2 }]'


def test_a_study_runs_from_another_thread(new_harness):
    study = new_harness.study('["learned"]', parallelism=TWO_PROCESSES)
    finished = new_harness.process("run", study, program=("-c", IN_A_THREAD))
    (run,) = new_harness.runs()
    assert "1 of 1 done" in finished.stderr and len(run.steps()) == 8


def test_a_stuck_run_is_ended_from_another_thread(new_harness):
    """Both ranks wait, and no signal reaches the thread that started them."""
    study = new_harness.study('["hangs"]', parallelism=TWO_PROCESSES)
    pids = new_harness.folder / "pids"
    pids.mkdir()
    mark = f"open({str(pids)!r} + f'/{{os.getpid()}}', 'w').close()"
    new_harness.variant("hangs", f"{mark}; time.sleep(3600) if self.training else None")
    limit = ["launch.stall_timeout_s=15"]
    new_harness.process("run", study, settings=limit, program=("-c", IN_A_THREAD), code=1)
    (run,) = new_harness.runs()
    assert (run.status.status, run.status.reason) == ("failed", "timeout")
    assert "launch.stall_timeout_s = 15 s" in run.status.message
    ranks = [int(path.name) for path in pids.iterdir()]
    assert len(ranks) == 2 and not any(psutil.pid_exists(rank) for rank in ranks)


@pytest.mark.skipif(usable_cores() < 2, reason="needs 2 cores")
def test_a_stuck_run_ends_alone_beside_one_that_trains(new_harness):
    """Two runs at once on a core each; the watchdog ends the one that hangs."""
    study = new_harness.study('["learned", "hangs"]')
    new_harness.variant("hangs", "time.sleep(3600) if self.training else None")
    settings = ["launch.parallel=2", "launch.stall_timeout_s=15"]
    new_harness("run", study, settings=settings, code=1)
    outcomes = {run.spec.entry: run.status for run in new_harness.runs()}
    assert outcomes["learned-mha-single"].status == "done"
    assert outcomes["hangs-mha-single"].reason in ("timeout", "lost")
    cores = [run.env.pinned_cores for run in new_harness.runs()]
    assert all(cores) and not set(cores[0]) & set(cores[1])
    assert {run.env.timing for run in new_harness.runs()} == {"shared"}
