"""A rank that a variant ends is a failed run, whatever its exit code."""

import pytest

pytestmark = pytest.mark.distributed


def test_a_variant_that_exits_while_it_trains_fails_its_run(new_harness):
    study = new_harness.study('["leaves"]', '["mha"]', '["single"]')
    new_harness.variant("leaves", "raise SystemExit(0)")
    new_harness("run", study, code=1)
    (run,) = new_harness.runs()
    assert (run.status.status, run.status.reason) == ("failed", "error")
    assert "SystemExit" in run.status.message


def test_a_variant_that_ends_its_rank_fails_its_run(new_harness):
    """The other rank is in the middle of a step with it."""
    study = new_harness.study('["leaves"]', '["mha"]', '[{ variant = "ddp", nproc = 2 }]')
    new_harness.variant("leaves", "os._exit(0) if os.environ['RANK'] == '1' else None")
    new_harness("run", study, code=1)
    (run,) = new_harness.runs()
    assert (run.status.status, run.status.reason) == ("failed", "error")
    assert run.status.message.startswith("rank 1 ended with exit code 0 before the run was done: ")
