"""If these failed, the times of a run that moved would pass for those of one machine."""

from tiny_run import tiny_spec

from harness.results.records import Environment
from harness.results.run import Run
from harness.training.environment import describe

HOSTS = ["node-1"]


def test_a_resumed_run_names_its_earlier_machines(tmp_path, ranks):
    spec = tiny_spec(tmp_path)
    here = describe(spec, ranks, HOSTS)
    assert here.usable_cores and not here.earlier_machines
    assert not describe(spec, ranks, HOSTS, here).earlier_machines
    there = Environment(host="node-2", cpu="Another CPU")
    again = describe(spec, ranks, HOSTS, there)
    assert again.earlier_machines == ["node-2: Another CPU"]
    assert describe(spec, ranks, HOSTS, again).earlier_machines == ["node-2: Another CPU"]
    assert there.earlier_machines == []


def test_resuming_keeps_the_environment_and_a_new_start_does_not(tmp_path):
    run = Run(tmp_path / "run")
    run.path.mkdir()
    run.create(tiny_spec(tmp_path))
    run.mark_running()
    run.write_env(Environment(host="node-2"))
    run.finish("interrupted", "killed", "stopped by the user")
    run.mark_running()
    assert run.env and run.env.host == "node-2"
    run.finish("failed", "nan", "the loss is not finite")
    run.mark_running()
    assert run.env is None
