"""Without these, a run that lacks memory would fail without a word on what it needs."""

import errno
import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from tiny_run import tiny_spec

from harness.probes.memory import is_of_gpu, is_out_of_memory
from harness.results.records import MemoryNeed, PredictedCost
from harness.results.run import Run

GIB = 2**30


def caused_by(error: Exception) -> Exception:
    outer = RuntimeError("backend failed")
    outer.__cause__ = error
    return outer


OUT_OF_MEMORY = {
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "CUDA error": RuntimeError("CUDA error: out of memory"),
    "replica of dp": RuntimeError("Caught OutOfMemoryError in replica 1: CUDA out of memory."),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
    "CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate"
        " memory: you tried to allocate 8 bytes. Error code 12"
    ),
    "CPU, macOS": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8"),
    "mapped": RuntimeError("unable to mmap 8 bytes from file <x>: Cannot allocate memory (12)"),
    "C++": RuntimeError("std::bad_alloc"),
    "Python": MemoryError(),
    "fork": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "cause": caused_by(MemoryError()),
}
OTHER = {
    "full disk": OSError(errno.ENOSPC, "No space left on device"),
    "shapes": RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    "kernel": RuntimeError("CUDA error: an illegal memory access was encountered"),
    "caused": caused_by(ValueError("x")),
}


@pytest.mark.parametrize("name", [*OUT_OF_MEMORY, *OTHER])
def test_a_lack_of_memory_is_recognized(name):
    error = (OUT_OF_MEMORY | OTHER)[name]
    assert is_out_of_memory(error) == (name in OUT_OF_MEMORY)
    if name in OUT_OF_MEMORY:
        assert is_of_gpu(error) == name.startswith(("CUDA", "replica", "cuBLAS"))


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return str(listener.getsockname()[1])


LIMITED = """
import resource, sys
from pathlib import Path
import psutil, torch
from harness.training.main import run_worker
torch.set_num_threads(1)
limit = psutil.Process().memory_info().vms + 600 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
run_worker(Path(sys.argv[1]), claim=None)
"""


def test_a_run_that_lacks_memory_says_what_would_help(tmp_path):
    """The system refuses an allocation of its first step."""
    train = {"tokens_per_step": 2**18, "device": "cpu", "deterministic": False}
    spec = tiny_spec(tmp_path, n_embd=64, **train)
    n_sequences = 2**18 // spec.model.seq_len
    memory = MemoryNeed(
        parameters=GIB / 4,
        gradients=0,
        optimizer=0,
        gathered=0,
        activations=8.0 * GIB,
        n_sequences=n_sequences,
        micro_batch_size=n_sequences,
    )
    expected = PredictedCost(parameters=1, flops_per_token=1, memory_bytes=1, memory=memory)
    run = Run(tmp_path / "run")
    run.path.mkdir()
    run.create(spec.model_copy(update={"expected": expected}))
    environment = os.environ | {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": free_port(),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", LIMITED, str(run.path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    status = json.loads((run.path / "status.json").read_text())
    assert (status["status"], status["reason"]) == ("failed", "oom"), result.stderr
    assert result.returncode == 1
    message = status["message"]
    assert "can't allocate memory: you tried to allocate" in message and "\n" not in message
    assert "predicted: 8.2 GiB (parameters, gradients and optimizer state 256.0 MiB;" in message
    assert "of the machine" in message and "of the address space of a process (ulimit" in message
    smaller = n_sequences // 2
    assert f"to need less: train.micro_batch_size = {smaller} (now {n_sequences}), or" in message
    assert 'train.recompute = "block" (now "none")' in message
