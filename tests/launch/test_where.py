"""Where the time of a real run on two processes goes, and the trace of it."""

import gzip
import json
from statistics import median

import pytest
from safetensors import safe_open

from harness.results.store import Store

pytestmark = pytest.mark.distributed

LATE = """
import time

import torch.distributed as dist

from variants.parallelism.{base} import {name}


class V({name}):
    def wrap(self, model, device, precision):
        wrapped = super().wrap(model, device, precision)
        model.ln_f.register_forward_hook(lambda *_: time.sleep({late_s} * dist.get_rank()))
        return wrapped
"""
LATE_S = 0.15


@pytest.fixture(scope="module")
def runs(harness):
    """Return by parallelism a run of it, in bf16, in which rank 1 is late in every forward pass."""
    study = harness.study(
        '["learned"]', parallelism="[{ variant = 'ddp_late' }, { variant = 'fsdp_late' }]"
    )
    (harness.folder / "mine/parallelism").mkdir(parents=True)
    for base, name in (("ddp", "DDP"), ("fsdp", "FullySharded")):
        path = harness.folder / f"mine/parallelism/{base}_late.py"
        path.write_text(LATE.format(base=base, name=name, late_s=LATE_S))
    harness(
        "run",
        study,
        "--trace",
        settings=["train.steps=2", "train.micro_batch_size=8", "train.precision=bf16"],
    )
    return {
        run.spec.axes["parallelism"].name: run
        for run in Store(harness.folder / "results").runs("s")
    }


@pytest.mark.parametrize("name", ["ddp_late", "fsdp_late"])
def test_who_is_early_waits_and_who_is_late_computes(runs, name):
    """A wait that counted as computation would blame the model for a slow neighbour."""
    early, late = (
        {phase: median(samples) for phase, samples in rank.model_dump().items()}
        for rank in runs[name].probes.phases
    )
    assert early["waiting_s"] > 0.7 * LATE_S > 0.5 * LATE_S > late["waiting_s"]
    assert late["forward_s"] > LATE_S > 0.5 * LATE_S > early["forward_s"]


@pytest.mark.parametrize("name", ["ddp_late", "fsdp_late"])
def test_a_trace_of_each_rank_is_kept_where_it_was_asked_for(runs, name):
    for rank in range(2):
        with gzip.open(runs[name].trace_path(rank)) as file:
            events = json.load(file)["traceEvents"]
        names = {event.get("name") for event in events}
        assert "aten::mm" in names or "aten::linear" in names, "the operators of a step"
        assert any("gloo" in str(name) or "c10d" in str(name) for name in names), (
            "and its communication"
        )


def test_weights_are_stored_in_full_precision(runs):
    """Sharding leaves parameters in bf16 after a forward pass; a checkpoint must not keep those."""
    with safe_open(runs["fsdp_late"].newest_checkpoint / "model.safetensors", "np") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"F32"}  # noqa: SIM118
