"""Without these, a login node without GPUs could submit no GPU study, or plans a CPU one."""

import pytest

from harness.config import load
from harness.errors import UserError

STEPS = ("steps = 4\n", 'steps = 4\ndevice = "cuda"\n')
ON_SLURM = '\n[launch]\non = "slurm"\n'
FOUR_GPUS = f"{ON_SLURM}slurm = {{ gpus_per_node = 4 }}\n"


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)


def problems(path, *settings):
    with pytest.raises(UserError) as error:
        load(path, settings)
    return "\n".join(map(str, error.value.problems))


def test_a_login_node_without_gpus_plans_gpu_runs(write_study):
    planned = load(write_study(STEPS, more=FOUR_GPUS))
    assert {run.train.device for run in planned.runs} == {"cuda"}
    assert {run.launch.n_devices for run in planned.runs} == {1, 2}
    assert planned.launch.on == "slurm" and planned.launch.slurm.gpus_per_node == 4


def test_without_slurm_this_machine_needs_the_gpus(write_study):
    message = problems(write_study(STEPS, more=FOUR_GPUS), "launch.on=local")
    assert "this machine has 0" in message


def test_the_command_line_chooses_the_backend(write_study):
    path = write_study(STEPS, more="\n[launch.slurm]\ngpus_per_node = 4\n")
    assert load(path, ["launch.on=slurm"]).launch.on == "slurm"


def test_automatic_devices_are_refused_with_the_remedy(write_study):
    message = problems(write_study(more=FOUR_GPUS))
    assert 'train.device: auto: with launch.on = "slurm"' in message
    assert 'set device = "cuda" or "cpu"' in message


def test_gpus_of_nodes_must_be_stated(write_study):
    assert "launch.slurm.gpus_per_node: missing" in problems(write_study(STEPS, more=ON_SLURM))


@pytest.mark.parametrize(("n", "nearest"), [(6, "4, 8"), (7, "4, 8")])
def test_gpus_that_do_not_divide_are_refused(write_study, n, nearest):
    n_tokens = ("tokens_per_step = 128", f"tokens_per_step = {16 * n}")
    path = write_study(STEPS, n_tokens, ("nproc = 2", f"nproc = {n}"), more=FOUR_GPUS)
    assert f"the nearest that are: {nearest}" in problems(path)


def test_gpus_of_whole_nodes_are_accepted(write_study):
    path = write_study(STEPS, ("nproc = 2", "nproc = 8"), more=FOUR_GPUS)
    assert {run.launch.n_devices for run in load(path).runs} == {1, 8}


def test_processes_on_cpus_must_divide_over_nodes(write_study):
    nodes = "processes_per_node = 3"
    path = write_study(
        ("steps = 4\n", 'steps = 4\ndevice = "cpu"\n'),
        ("nproc = 2", "nproc = 8"),
        more=f"{ON_SLURM}slurm = {{ {nodes} }}\n",
    )
    assert "8 processes do not divide over nodes with 3; the nearest that do: 6, 9" in (
        problems(path)
    )


def test_all_problems_of_slurm_show_at_once(write_study):
    slurm = 'slurm = { time = "4h", options = ["--array=1"], partition = "a b", signal_s = 0 }'
    message = problems(write_study(STEPS, more=f"{ON_SLURM}{slurm}\n"))
    for key in ("time", "options[0]", "partition", "signal_s"):
        assert f"launch.slurm.{key}" in message
