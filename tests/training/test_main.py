"""A scheduler that starts a finished job again must not cost its result."""

from harness.training.main import run_worker


def test_worker_leaves_a_run_that_is_done_as_it_is(fake, capsys):
    run = fake.write().store.runs(fake.name)[0]
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    run_worker(run.path, claim=None)
    after = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert after == before
    assert f"{run.run_id} is done" in capsys.readouterr().out
