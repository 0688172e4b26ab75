"""Without these, a rank that waits for another could seem to compute, or a trace be missing."""

import gzip
import json

import pytest
from safetensors import safe_open

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
LATE_S = 0.4  # more than a busy machine delays a rank by


@pytest.fixture(scope="module")
def runs(harness):
    """Return a run in bf16 by parallelism; its rank 1 is late in every forward pass."""
    study = harness.study(
        '["learned"]', parallelism="[{ variant = 'ddp_late' }, { variant = 'fsdp_late' }]"
    )
    for base, name in (("ddp", "DDP"), ("fsdp", "FullySharded")):
        path = harness.folder / f"mine/parallelism/{base}_late.py"
        path.write_text(LATE.format(base=base, name=name, late_s=LATE_S))
    settings = ["train.steps=2", "train.micro_batch_size=8", "train.precision=bf16"]
    harness("run", study, "--trace", settings=settings)
    return {run.spec.axes["parallelism"].name: run for run in harness.runs()}


@pytest.mark.parametrize("name", ["ddp_late", "fsdp_late"])
def test_the_early_rank_waits_and_the_late_rank_computes(runs, name):
    """A wait that counts as computation would blame the model for a slow rank.

    A busy machine makes a rank slow for a moment: each phase counts in its best step.
    """
    early, late = (
        {phase: min(samples) for phase, samples in rank.model_dump().items()}
        for rank in runs[name].probes.phases
    )
    early["waiting_s"] = max(runs[name].probes.phases[0].waiting_s)
    assert early["waiting_s"] > 0.7 * LATE_S > 0.5 * LATE_S > late["waiting_s"]
    assert late["forward_s"] > LATE_S > 0.5 * LATE_S > early["forward_s"]


@pytest.mark.parametrize("name", ["ddp_late", "fsdp_late"])
def test_a_trace_of_each_rank_is_kept_on_request(runs, name):
    for rank in range(2):
        with gzip.open(runs[name].trace_path(rank)) as file:
            events = json.load(file)["traceEvents"]
        names = {event.get("name") for event in events}
        assert "aten::mm" in names or "aten::linear" in names
        communication = [name for name in map(str, names) if "gloo" in name or "c10d" in name]
        assert communication


def test_weights_are_stored_in_full_precision(runs):
    """Sharding leaves parameters in bf16 after a forward pass; a checkpoint must not keep those."""
    with safe_open(runs["fsdp_late"].newest_checkpoint / "model.safetensors", "np") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"F32"}  # noqa: SIM118
