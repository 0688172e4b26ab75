"""A precision that a device lacks is refused before anything starts, with the setting to change."""

import pytest

from harness.config import devices, load
from harness.errors import UserError

FP8 = ("steps = 4", 'steps = 4\nprecision = "fp8"\ndevice = "cuda"')
BF16 = ("steps = 4", 'steps = 4\nprecision = "bf16"\ndevice = "cuda"')
ON_CPU = ("steps = 4", 'steps = 4\nprecision = "fp8"\ndevice = "cpu"')
SINGLE = ('parallelism = ["single", { variant = "ddp", nproc = 2 }]', 'parallelism = ["single"]')
SLURM = '\n[launch]\non = "slurm"\n[launch.slurm]\ngpus_per_node = 8\n'


def problems(path) -> list[str]:
    try:
        load(path)
    except UserError as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.fixture
def gpu(monkeypatch):
    """Return a function that gives this machine GPUs of a compute capability."""

    def install(capability, has_torchao=True):
        monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
        monkeypatch.setattr(devices, "gpu_capability", lambda: capability)
        monkeypatch.setattr(devices, "has_torchao", lambda: has_torchao)

    return install


CASES = {  # changes, further lines, GPU, torchao; the problems
    "fp8 on a CPU": (
        [ON_CPU, SINGLE],
        "",
        None,
        True,
        ['train.precision: fp8: needs a GPU, and the device is cpu; use "bf16" (single)'],
    ),
    "bf16 on an old GPU": (
        [BF16, SINGLE],
        "",
        (7, 5),
        True,
        ["train.precision: bf16: this GPU has compute capability 7.5, and bf16 needs 8.0"],
    ),
    "bf16": ([BF16], "", (8, 0), False, []),
    "fp8": ([FP8, SINGLE], "", (9, 0), True, []),
    "fp8 on an old GPU": ([FP8, SINGLE], "", (8, 0), True, ["capability 8.0, and fp8 needs 8.9"]),
    "fp8 without torchao": ([FP8, SINGLE], "", (9, 0), False, ["pip install 'ablations[fp8]'"]),
    "fp8 of two processes": (
        [FP8],
        "",
        (9, 0),
        True,
        [
            "not tested with this parallelism, which has fp32, bf16; exclude it, or use "
            '"bf16" (ddp2)'
        ],
    ),
    "fp8 of an odd width": (
        [FP8, SINGLE, ("n_embd = 32", "n_embd = 40")],
        "",
        (9, 0),
        True,
        [f"h.{i}.{name} is" for i in (0, 1) for name in ("attn.c_attn", "attn.c_proj")]
        + [f"h.{i}.mlp.{name} is" for i in (0, 1) for name in ("c_fc", "c_proj")]
        # With grouped queries and a window as well: the first has another c_attn.
        + [f"h.{i}.attn.c_attn is 40 x 80" for i in (0, 1)],
    ),
    "fp8 of odd micro-batches": (
        [FP8, SINGLE, ("seq_len = 16", "seq_len = 8"), ("= 128", "= 128\nmicro_batch_size = 1")],
        "",
        (9, 0),
        True,
        ["a forward pass has 8 tokens, and fp8 needs a multiple of 16; change seq_len or"],
    ),
    "fp8 on Slurm": ([FP8, SINGLE], SLURM, (7, 0), True, []),
    "fp8 on Slurm, odd micro-batches": (
        [FP8, SINGLE, ("seq_len = 16", "seq_len = 8"), ("= 128", "= 128\nmicro_batch_size = 1")],
        SLURM,
        None,
        True,
        ["a forward pass has 8 tokens"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_precision_is_refused_before_the_start(write_study, gpu, name):
    changes, more, capability, has_torchao, expected = CASES[name]
    gpu(capability, has_torchao)
    found = problems(write_study(*changes, more=more))
    for part in expected:
        assert any(part in problem for problem in found), (part, found)
    assert bool(found) == bool(expected)
    assert all(any(part in problem for part in expected) for problem in found), found


def test_an_axis_of_precisions_is_refused_at_its_level(write_study, gpu):
    gpu((8, 0))
    change = ('attention = ["mha", ', '"train.precision" = ["fp32", "fp8"]\nattention = ["mha", ')
    found = problems(write_study(SINGLE, change, ("steps = 4", 'steps = 4\ndevice = "cuda"')))
    assert len(found) == 1 and 'axes."train.precision"[1]: fp8: this GPU' in found[0]
