"""The study of GPT-2 124M: its entries, and one of them trained end to end on a CPU."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
from command_line import Harness

from harness.config import load
from harness.data.tokenizers import Tokenizer
from harness.errors import UserError
from harness.results.store import Store

STUDY = Path(__file__).parents[2] / "studies/gpt2_124m.toml"
REAL = Path(os.environ.get("ABLATIONS_DATA") or Path(__file__).parents[3] / "shared/data").resolve()
# In fp32: without AMX, a CPU computes several times slower in bf16.
SMALL = """
model.seq_len=32 train.steps=2 train.tokens_per_step=64 train.micro_batch_size=1 train.device=cpu
train.precision=fp32 train.compile=false train.warmup_steps=0 train.eval_tokens=64
""".split()
ENTRY = "optimizer=adamw positional=rope attention=sliding_window".split()


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Return a copy of the study with a window of 8, next to shards in modded-nanogpt's format."""
    if "TIKTOKEN_CACHE_DIR" not in os.environ:
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(REAL / "tiktoken_cache"))
    try:
        Tokenizer("gpt2")
    except UserError:
        pytest.skip("the tokenizer is not available")
    folder = tmp_path / "fineweb10B"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in ("val_000000", "train_000001", "train_000029"):
        header = np.zeros(256, "<i4")
        header[:3] = (20240520, 1, 2048)
        tokens = generator.integers(50257, size=2048).astype("<u2")
        (folder / f"fineweb_{name}.bin").write_bytes(header.tobytes() + tokens.tobytes())
    copy = tmp_path / STUDY.name
    copy.write_text(STUDY.read_text().replace("window = 256", "window = 8"))
    return copy


def test_study_of_124m_trains_the_published_model(study, tmp_path, monkeypatch):
    """Its losses are to be comparable with those of llm.c and modded-nanogpt."""
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    planned = load(study, ["train.device=cpu"])
    specs = planned.runs
    assert len(specs) == 2 * 2 * 3 * 3
    assert {spec.seed for spec in specs} == {0, 1, 2}
    (baseline,) = {
        spec.expected.parameters
        for spec in specs
        if {name: spec.axes[name].name for name in spec.baseline} == spec.baseline
    }
    assert baseline == 124_439_808
    for spec in specs:
        assert spec.model.seq_len == 1024 and spec.train.tokens_per_step == 524_288
        assert spec.train.precision == "bf16" and spec.train.compile
        assert spec.train.total_tokens == pytest.approx(20 * baseline, rel=0.01)
        names = [Path(part.file).name for part in spec.launch.train_tokens]
        assert names == ["fineweb_train_000001.bin", "fineweb_train_000029.bin"]


@pytest.mark.distributed
def test_a_model_of_124m_trains_on_a_cpu(study, tmp_path):
    """A GPU is not needed to see that the study runs: data, steps, checkpoint, probes, report."""
    harness = Harness(tmp_path)
    harness("run", study.name, "--seeds", 0, settings=SMALL, where=ENTRY)
    (run,) = Store(tmp_path / "results").runs("gpt2_124m")
    assert run.status.status == "done"
    steps = run.steps()
    assert steps.loss[0] == pytest.approx(math.log(50257), abs=0.5)
    assert len(steps) == 2 and steps.tokens.tolist() == [64, 64]
    probes = run.probes
    assert probes.parameters == 124_439_808 - 1024 * 768  # without a table of positions
    assert probes.memory[0].optimizer >= 2 * 4 * probes.parameters
