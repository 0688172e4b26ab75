"""Cost of measuring: the loop's bookkeeping relative to a training step."""

import statistics
import time
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from test_training import CFG, batch, our_step  # noqa: F401

from harness.distributed.process_group import DistributedContext
from harness.probes.timer import Timer
from harness.results.run import Run

MAX_OVERHEAD = 0.005  # of a step


@pytest.fixture
def ranks(device, tmp_path):
    """This process as the only rank."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    yield DistributedContext(0, 1, device)
    dist.destroy_process_group()


def recorded(
    step: Callable[[], object], run: Run, ranks: DistributedContext
) -> Callable[[], object]:
    """Return a step with the bookkeeping of the loop and a status check (rarer in a run)."""
    timer, file, loss = Timer(ranks.device), run.steps_file(0), torch.ones((), device=ranks.device)

    def step_and_record() -> None:
        with timer:
            step()
        mean, norm = ranks.sum(loss.item())[0] / ranks.world_size, loss.item()
        record = {
            "step": 0,
            "loss": mean,
            "step_s": timer.seconds,
            "tokens": CFG.tokens_per_step,
            "grad_norm": norm,
        }
        file.append(record | {"lr": 1e-3, "warmup": False})
        run.last_step()

    return step_and_record


def test_recording_a_step(compare, benchmark, device, batch, ranks, tmp_path):  # noqa: F811
    """The ratio is the relative speed with recording, which is too cheap to measure like this."""
    step, run = our_step(device, batch), Run(tmp_path)
    compare(ours=recorded(step, run, ranks), peer="the same step", theirs=step, rounds=16)
    if benchmark.enabled:
        alone_s, bookkeeping = [], recorded(lambda: None, run, ranks)
        for _ in range(200):
            start = time.perf_counter()
            bookkeeping()
            alone_s.append(time.perf_counter() - start)
        assert statistics.median(alone_s) < MAX_OVERHEAD * statistics.median(
            benchmark.extra_info["peer_s"]
        )
