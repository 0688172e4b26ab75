"""The spec of a tiny run on a predictable text, shared by the training tests."""

import hashlib
from pathlib import Path

import numpy as np
import torch.distributed as dist

from harness.results.records import (
    LaunchSpec,
    PredictedCost,
    ResolvedData,
    ResolvedModel,
    RunSpec,
    TokenSlice,
    TrainSettings,
    VariantChoice,
)

VOCAB = 17  # two ranks hold unequal shards of 17 rows
SEQ_LEN = 8
N_TRAIN_TOKENS = 1000
N_VAL_TOKENS = 101


def tiny_spec(
    folder: Path,
    *,
    parallelism: str = "single",
    optimizer: VariantChoice | None = None,
    nproc: int = 1,
    n_embd: int = 16,
    dropout: float = 0.0,
    seed: int = 0,
    data_seed: int | None = None,
    keep_checkpoints: str = "none",
    checkpoint_every: int | None = None,
    data_offset_steps: int = 0,
    **train: object,
) -> RunSpec:
    """Return the spec of a run on tokens that count up by 3, of which the last ones validate."""
    tokens = np.arange(N_TRAIN_TOKENS + N_VAL_TOKENS) * 3 % VOCAB
    tokens.astype(np.uint16).tofile(folder / "tokens.bin")
    np.save(folder / "bytes.npy", 1 + np.arange(VOCAB) % 3)
    baseline = {"positional": "learned", "attention": "mha", "parallelism": parallelism}
    options = {"parallelism": {"nproc": nproc}}
    axes = {}
    for axis, name in baseline.items():
        axes[axis] = VariantChoice(name=name, label=name, options=options.get(axis, {}))
    if optimizer is not None:
        axes["optimizer"] = optimizer
    settings = {"steps": 6, "tokens_per_step": 8 * SEQ_LEN, "lr": 1e-2, "eval_every": 4}
    return RunSpec(
        study="study",
        run_id="run",
        entry="run",
        seed=seed,
        data_seed=data_seed,
        data_offset_steps=data_offset_steps,
        settings_hash="",
        baseline=baseline,
        axes=axes,
        model=ResolvedModel(
            n_layer=2,
            n_head=2,
            n_embd=n_embd,
            seq_len=SEQ_LEN,
            vocab_size=VOCAB,
            dropout=dropout,
        ),
        data=ResolvedData(corpus="synthetic", tokenizer="bytes", sha256=""),
        train=TrainSettings(**settings | train),
        launch=LaunchSpec(
            world_size=nproc,
            timeout_s=None,
            checkpoint_every=checkpoint_every,
            keep_checkpoints=keep_checkpoints,
            variant_paths=[],
            train_tokens=[_slice(folder, 0, N_TRAIN_TOKENS)],
            val_tokens=[_slice(folder, N_TRAIN_TOKENS, N_TRAIN_TOKENS + N_VAL_TOKENS)],
            token_bytes=str(folder / "bytes.npy"),
        ),
        expected=PredictedCost(parameters=0, flops_per_token=0, memory_bytes=0),
    )


def _slice(folder: Path, start: int, stop: int) -> TokenSlice:
    file = folder / "tokens.bin"
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return TokenSlice(file=str(file), start=start, stop=stop, sha256=sha256)


def join_alone(folder: Path) -> None:
    """Join a process group of this process only, outside of torchrun."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
