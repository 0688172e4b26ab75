"""Without these, runs that cannot fit would start, and fail one after the other."""

import pytest
from tiny_run import tiny_spec

from harness.cli.app import main
from harness.launch import gpus, machine
from harness.results.host_memory import Capacity
from harness.results.records import MemoryNeed, PredictedCost

GIB = 2**30


def spec_of(folder, device, world_size=1, **need):
    spec = tiny_spec(folder, device=device)
    memory = MemoryNeed(
        **{"parameters": 2.0 * GIB, "gradients": 2.0 * GIB, "optimizer": 4.0 * GIB, "gathered": 0.0}
        | need,
        activations=100.0 * GIB,
        n_sequences=8,
        micro_batch_size=8,
    )
    expected = PredictedCost(
        parameters=GIB // 2, flops_per_token=0, memory_bytes=memory.total, memory=memory
    )
    launch = spec.launch.model_copy(update={"world_size": world_size})
    return spec.model_copy(update={"expected": expected, "launch": launch})


CASES = {  # device, ranks, need, GPU in MiB, host in GiB: whether it cannot fit
    "GPU": ("cuda", 1, {}, 4096, 64, True),
    "GPU, activations do not count": ("cuda", 1, {}, 16384, 64, False),
    "GPU of each rank": ("cuda", 4, {}, 16384, 4, False),
    "unknown GPU": ("cuda", 1, {}, None, 64, False),
    "CPU": ("cpu", 1, {}, 65536, 4, True),
    "CPU, ranks share it": ("cpu", 4, {}, 65536, 16, True),
    "CPU, activations do not count": ("cpu", 1, {}, None, 16, False),
    "offloaded": ("cuda", 2, {"state_on_host": True}, 4096, 64, False),
    "offloaded, ranks share it": ("cuda", 2, {"state_on_host": True}, 65536, 12, True),
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_fit_is_refused(tmp_path, monkeypatch, name):
    device, world_size, need, gpu_mib, host_gib, is_refused = CASES[name]
    size = None if gpu_mib is None else gpu_mib * 2**20
    monkeypatch.setattr(gpus, "visible", lambda environment: ["0"])
    monkeypatch.setattr(gpus, "largest_memory", lambda devices: size)
    host = [Capacity("the machine", host_gib * GIB, GIB)]
    monkeypatch.setattr(machine, "host_capacities", lambda: host)
    problems = machine.check_memory([spec_of(tmp_path, device, world_size, **need)])
    assert bool(problems) == is_refused
    for problem in problems:
        assert "state 8.0 GiB" in problem.message and "available: " in problem.message
        assert "micro_batch_size" not in problem.message and "lion" in problem.message


def test_a_run_without_a_prediction_is_not_checked(tmp_path):
    assert machine.check_memory([tiny_spec(tmp_path)]) == []


STUDY = """
[study]
name = "s"
seeds = [0]
[model]
n_layer = 2
n_head = 4
n_embd = 32
seq_len = 16
[data]
corpus = "synthetic"
[train]
steps = 2
tokens_per_step = 128
device = "cpu"
[axes]
size = [{ label = "small", "model.n_embd" = 32 }, { label = "large", "model.n_embd" = 65536 }]
"""


def test_run_refuses_what_cannot_fit(tmp_path, monkeypatch, capsys):
    """64 K channels: 200 billion parameters."""
    monkeypatch.setattr("harness.launch.fork_server.start_fork_server", lambda: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text(STUDY)
    with pytest.raises(SystemExit) as ended:
        main(["run", "study.toml"])
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert "learned-mha-single-large: does not fit into memory: predicted: " in errors
    assert "-small" not in errors and not (tmp_path / "results").exists()
