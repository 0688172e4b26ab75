"""Without these, a run in fp8 or bf16 would fail on its device, or compute in another type."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from tiny_run import tiny_spec
from torch import nn

from harness.distributed.process_group import DistributedContext
from harness.errors import UserError
from harness.model.builder import ModelBuilder
from harness.model.float8 import block_layers, compute_in_fp8
from harness.model.precision import Conditions, autocast, dtype_of, why_unsupported
from harness.model.weights import GPT2
from harness.probes.peak_flops import DENSE_TFLOPS, vendor_flops
from harness.results.records import TrainSettings
from harness.results.run import Run
from harness.training import loop
from variants import registry
from variants.base import ModelShape

SHAPE = ModelShape(n_layer=2, n_head=2, n_embd=32, seq_len=16, vocab_size=50)
H100 = {"device": "cuda", "capability": (9, 0), "has_torchao": True, "supported": ("fp32", "fp8")}
FITTING = {"layers": {"h.0.mlp.c_fc": (128, 32)}, "n_tokens": [64, 1024]}

CASES = {  # precision, conditions; parts of the reasons, in order
    "fp32 anywhere": ("fp32", {"device": "cuda", "capability": (3, 5)}, []),
    "bf16 on a CPU": ("bf16", {"device": "cpu"}, []),
    "bf16 on an A100": ("bf16", {"device": "cuda", "capability": (8, 0)}, []),
    "bf16 on a V100": (
        "bf16",
        {"device": "cuda", "capability": (7, 0)},
        ["bf16: this GPU has compute capability 7.0, and bf16 needs 8.0 (A100, RTX 30 and newer)"],
    ),
    "bf16 on a T4": ("bf16", {"device": "cuda", "capability": (7, 5)}, ['use "fp32"']),
    "bf16 on an unknown GPU": ("bf16", {"device": "cuda"}, []),
    "bf16 of any size": ("bf16", H100 | {"layers": {"x": (3, 5)}, "n_tokens": [7]}, []),
    "fp8 on an H100": ("fp8", H100 | FITTING, []),
    "fp8 on an L40S": ("fp8", H100 | FITTING | {"capability": (8, 9)}, []),
    "fp8 on an unknown GPU": ("fp8", H100 | FITTING | {"capability": None}, []),
    "fp8 on a CPU": (
        "fp8",
        {"device": "cpu", "has_torchao": False},
        ['fp8: needs a GPU, and the device is cpu; use "bf16"'],
    ),
    "fp8 on an A100": (
        "fp8",
        H100 | {"capability": (8, 0)},
        ['capability 8.0, and fp8 needs 8.9 (H100, L40S, RTX 40 and newer); use "bf16"'],
    ),
    "fp8 on a V100": ("fp8", H100 | {"capability": (7, 0)}, ['use "fp32"']),
    "fp8 without torchao": (
        "fp8",
        H100 | {"has_torchao": False},
        ["needs torchao, which is not installed: pip install 'ablations[fp8]'"],
    ),
    "fp8 of several processes": (
        "fp8",
        H100 | {"supported": ("fp32", "bf16")},
        ["not tested with this parallelism, which has fp32, bf16; exclude it"],
    ),
    "fp8 of odd inputs": (
        "fp8",
        H100 | {"layers": {"h.0.attn.c_proj": (32, 24)}},
        ["layer h.0.attn.c_proj is 24 x 32, and fp8 needs multiples of 16"],
    ),
    "fp8 of odd outputs": ("fp8", H100 | {"layers": {"x": (40, 32)}}, ["layer x is 32 x 40"]),
    "fp8 of odd batches": (
        "fp8",
        H100 | {"n_tokens": [64, 24, 24]},
        ["a forward pass has 24 tokens, and fp8 needs a multiple of 16; change seq_len or"],
    ),
    "all at once": (
        "fp8",
        {
            "device": "cuda",
            "capability": (8, 0),
            "has_torchao": False,
            "supported": ("fp32",),
            "layers": {"x": (3, 16), "y": (16, 16)},
            "n_tokens": [3],
        },
        ["capability 8.0", "torchao", "parallelism", "layer x", "3 tokens"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_precision_is_refused_with_reason_and_remedy(name):
    precision, conditions, expected = CASES[name]
    reasons = why_unsupported(precision, Conditions(**conditions))
    assert len(reasons) == len(expected)
    for reason, part in zip(reasons, expected, strict=True):
        assert part in reason


def test_all_precisions_are_known_everywhere():
    """A precision that one table lacks would fail at the end of a run."""
    from typing import get_args

    from harness.analysis.equivalence import TOLERANCES
    from harness.contract.model_checks import PRECISIONS
    from variants.base import Precision

    precisions = set(get_args(Precision))
    assert set(get_args(TrainSettings.model_fields["precision"].annotation)) == precisions
    assert set(TOLERANCES) == set(PRECISIONS) == precisions
    assert {precision for peaks in DENSE_TFLOPS.values() for precision in peaks} == precisions
    for precision in precisions:
        assert dtype_of(precision) == (torch.float32 if precision == "fp32" else torch.bfloat16)
        with autocast(torch.device("cpu"), precision):
            assert torch.is_autocast_enabled("cpu") == (precision != "fp32")
    assert [loop._coarsest("fp32", other) for other in ("fp32", "bf16", "fp8")] == [
        "fp32",
        "bf16",
        "fp8",
    ]
    assert loop._coarsest("fp8", "bf16") == "fp8"


def test_peaks_of_fp8_are_twice_those_of_bf16_where_there_are_any():
    for name, peaks in DENSE_TFLOPS.items():
        if "fp8" in peaks:
            assert peaks["fp8"] == pytest.approx(2 * peaks["bf16"], rel=0.02), name
    assert vendor_flops("NVIDIA H100 80GB HBM3", "fp8") == 1979e12
    assert vendor_flops("NVIDIA A100-SXM4-40GB", "fp8") is None


def test_each_parallelism_states_its_precisions():
    """Only what is tested: fp8 with one process."""
    supported = {
        name
        for name in registry.files("parallelism")
        if "fp8" in registry.load("parallelism", name).precisions
    }
    assert supported == {"single"}


def test_the_layers_of_blocks_are_those_of_all_blocks():
    model = ModelBuilder(SHAPE, GPT2, ()).model()
    expected = {"attn.c_attn": (96, 32), "attn.c_proj": (32, 32)}
    expected |= {"mlp.c_fc": (128, 32), "mlp.c_proj": (32, 128)}
    layers = block_layers(model)
    assert layers == {f"h.{i}.{name}": size for i in (0, 1) for name, size in expected.items()}


def test_only_linear_layers_of_blocks_compute_in_fp8():
    pytest.importorskip("torchao")
    shape = dataclasses.replace(SHAPE, tie_embeddings=False)
    model = ModelBuilder(shape, GPT2, ()).model()
    before = {name: parameter.shape for name, parameter in model.named_parameters()}
    names = block_layers(model)
    compute_in_fp8(model, emulate=True)
    converted = {
        name for name, module in model.named_modules() if type(module).__name__ == "Float8Linear"
    }
    assert converted == set(names) == set(block_layers(model))
    assert type(model.lm_head) is not type(model.h[0].mlp.c_fc)
    assert {name: parameter.shape for name, parameter in model.named_parameters()} == before
    assert isinstance(model.h[0].mlp.c_fc, nn.Linear)


@pytest.fixture
def train(tmp_path, ranks):
    """Return a function that trains a tiny model in a precision and returns its losses."""

    def losses(precision, device="cpu"):
        folder = tmp_path / precision
        folder.mkdir()
        options = {"precision": precision, "device": device, "deterministic": False}
        spec = tiny_spec(folder, n_embd=32, **options)
        run = Run(folder / "run")
        run.path.mkdir()
        run.create(spec)
        with run.claim() as claim:
            claim.run.mark_running()
            context = DistributedContext(0, 1, torch.device(device))
            probes = loop.train(claim.run, spec, context)
        assert probes.communication_dtype == precision
        return run.steps().loss

    return losses


def assert_close(fp8, bf16):
    """Rounding to fp8 shows, and changes the loss by little."""
    assert not np.array_equal(fp8, bf16)
    assert np.abs(fp8 - bf16).max() < 0.02 * bf16[0]
    assert fp8[-1] < fp8[0]


def test_a_run_in_emulated_fp8_has_the_losses_of_bf16(train, monkeypatch):
    """The whole path of a run, with products that need no GPU."""
    pytest.importorskip("torchao")
    monkeypatch.setattr(loop, "why_unsupported", lambda *_: [])
    emulated = functools.partial(compute_in_fp8, emulate=True)
    monkeypatch.setattr(loop, "compute_in_fp8", emulated)
    assert_close(train("fp8"), train("bf16"))


@pytest.mark.cuda
def test_a_run_in_fp8_has_the_losses_of_bf16(train):
    """Never run so far: no GPU with fp8 was at hand."""
    pytest.importorskip("torchao")
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs a GPU with fp8")
    assert_close(train("fp8", "cuda"), train("bf16", "cuda"))


def test_a_rank_refuses_what_its_device_lacks(train):
    """The launcher may be on a login node without a GPU."""
    with pytest.raises(
        UserError, match=r"train\.precision: fp8: needs a GPU, and the device is cpu"
    ):
        train("fp8")
