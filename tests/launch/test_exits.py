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
