"""Synthetic results: studies of any shape, written through the store as training writes them."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from harness.results.records import (
    Environment,
    EvalRecord,
    LaunchRecord,
    ProbeResults,
    RunSpec,
    StepRecord,
)
from harness.results.store import Store

AXES = {
    "positional": ["learned", "rope"],
    "attention": ["mha", "gqa2", "local64"],
    "parallelism": ["single", "ddp2", "fsdp2"],
}
NPROC = {"ddp1": 1, "ddp2": 2, "ddp4": 4, "fsdp2": 2, "fsdp4": 4}
SPEED = {
    "single": 1.0,
    "ddp1": 0.4,
    "ddp2": 0.62,
    "ddp4": 0.9,
    "fsdp2": 0.85,
    "gqa2": 0.93,
    "local64": 1.08,
    "rope": 1.04,
}
GAIN = {"rope": -0.09, "gqa2": 0.02, "local64": 0.05, "alibi": -0.05}
ENTROPY = 1.31
# Levels of an axis of settings, the baseline's is M.
SIZES = {
    "S": {"model.n_embd": 64, "train.lr": 1e-3},
    "M": {"model.n_embd": 128, "train.lr": 5e-4},
    "L": {"model.n_embd": 256, "train.lr": 2.5e-4},
}


def step_record(step: int, **changes: object) -> StepRecord:
    """Return the line of a step of a rank."""
    values = {"loss": 2.0, "step_s": 0.1, "tokens": 64, "grad_norm": 1.0, "lr": 1e-3}
    return StepRecord.model_validate({"step": step, "warmup": False} | values | changes)


@dataclass
class SyntheticStudy:
    """A study of made-up runs; change an attribute before `write` to plant what a test is about."""

    titles = MappingProxyType({})  # of labels, which have none by default
    root: Path
    name: str = "tiny"
    axes: dict[str, list[str]] = field(
        default_factory=lambda: {axis: list(labels) for axis, labels in AXES.items()}
    )
    baseline: dict[str, str] = field(
        default_factory=lambda: {axis: labels[0] for axis, labels in AXES.items()}
    )
    seeds: tuple[int, ...] = (0, 1, 2)
    vary: bool = False  # cross the seeds of first values and of the order of the data
    steps: int = 12
    eval_every: int = 4
    n_warmup: int = 2
    tokens: int = 1024
    settings_hash: str = "c0ffee"
    tokenizer: str = "bytes"
    entropy: float | None = ENTROPY
    peak: float | None = 2e11
    decode: tuple[list[int], list[int]] | None = None  # batches and contexts of the decode probe
    lengths: list[int] | None = None  # of the length probe
    # setting axis -> label -> the settings of that level, as dotted keys
    settings: dict[str, dict[str, dict[str, object]]] = field(default_factory=dict)
    overrides: dict[str, object] = field(default_factory=dict)  # dotted keys of every run
    compare: list[str] | None = None  # the axes that the study asks about
    gain: dict[str, float] = field(default_factory=dict)  # entry -> added to its loss
    outcome: dict[str, tuple[str, str | None, str | None]] = field(
        default_factory=dict
    )  # "entry-s0" -> how it ends
    env: dict[str, dict] = field(
        default_factory=dict
    )  # entry, or "entry-s0" -> what its env.json has that others have not

    @property
    def store(self) -> Store:
        return Store(self.root)

    def write(self) -> "SyntheticStudy":
        """Write all runs and the launch that started them, in a random order within each seed."""
        rng = np.random.default_rng(len(self.settings_hash))
        order = []
        for seed in self.seeds:
            orders = [None, *(other for other in self.seeds if self.vary and other != seed)]
            block = [
                self.run(labels, seed, order)
                for order in orders
                for labels in itertools.product(*self.axes.values())
            ]
            order += [block[i] for i in rng.permutation(len(block))]
        command = "python -m harness run ablations.toml --set train.steps=12"
        launch = LaunchRecord(
            command=command,
            order=order,
            settings_hash=self.settings_hash if self.compare else None,
            compare=self.compare,
        )
        self.store.record_launch(self.name, launch)
        return self

    def run(self, labels: tuple[str, ...], seed: int, data_seed: int | None = None) -> str:
        """Write one run to its end, or as far as its outcome says; return its id."""
        entry, name = "-".join(labels), f"{seed}" if data_seed is None else f"{seed}d{data_seed}"
        nproc = next((NPROC[label] for label in labels if label in NPROC), 1)
        run = self.store.run(self.name, f"{entry}-s{name}-{self.settings_hash}")
        run.path.mkdir(parents=True, exist_ok=True)
        spec = self.spec(entry, labels, seed, data_seed, run.run_id, nproc)
        run.create(spec)
        status, reason, message = self.outcome.get(f"{entry}-s{name}", ("done", None, None))
        if status == "pending":
            return run.run_id
        run.mark_running()
        env = self.environment(nproc) | self.env.get(entry, {})
        run.write_env(Environment(**env | self.env.get(f"{entry}-s{name}", {})))
        run.log_path.write_text("".join(f"line {i}\n" for i in range(30)) + (message or "") + "\n")
        n_steps = spec.train.steps if status == "done" else spec.train.steps // 2
        self.curves(run, spec, labels, n_steps, nproc)
        if status == "done":
            run.write_probes(ProbeResults.model_validate(self.probes(labels, seed, nproc)))
        if status != "running":
            run.finish(status, reason, message)
        return run.run_id

    def spec(self, entry, labels, seed, data_seed, run_id, nproc) -> RunSpec:
        spec = {
            "study": self.name,
            "run_id": run_id,
            "entry": entry,
            "seed": seed,
            "data_seed": data_seed,
            "settings_hash": self.settings_hash,
            "baseline": self.baseline,
            "axes": {
                axis: {
                    "name": axis if axis in self.settings else label.rstrip("0123456789"),
                    "label": label,
                    "title": self.titles.get(label, ""),
                    "options": self.settings.get(axis, {}).get(label, {}),
                }
                for axis, label in zip(self.axes, labels, strict=True)
            },
            "model": {
                "n_layer": 4,
                "n_head": 4,
                "n_embd": 64,
                "seq_len": 128,
                "dropout": 0.0,
                "vocab_size": 256,
            },
            "data": {
                "corpus": "synthetic",
                "tokenizer": self.tokenizer,
                "sha256": "ab" * 32,
                "entropy_nats_per_byte": self.entropy,
            },
            "train": {
                "steps": self.steps,
                "tokens_per_step": self.tokens,
                "lr": 1e-3,
                "eval_every": self.eval_every,
                "precision": "fp32",
                "device": "cpu",
            },
            "launch": {
                "world_size": nproc,
                "timeout_s": None,
                "variant_paths": [],
                "train_tokens": [],
                "val_tokens": [],
                "token_bytes": "bytes.npy",
            },
            "expected": {"parameters": 222_222, "flops_per_token": 1.4e6, "memory_bytes": 9e6},
        }
        for settings in (self.overrides, *(axis["options"] for axis in spec["axes"].values())):
            for key, value in settings.items():
                section, name = key.split(".")
                spec[section][name] = value
        return RunSpec.model_validate(spec)

    def environment(self, nproc) -> dict:
        return {
            "python": "3.11.7",
            "torch": "2.11.0",
            "numpy": "2.4.6",
            "platform": "Linux-6.1-x86_64",
            "host": "node-1",
            "cpu": "Example CPU @ 2.4 GHz",
            "cores": 2,
            "memory_bytes": 16 * 2**30,
            "gpu": None,
            "threads": 2 // nproc,
            "world_size": nproc,
            "backend": "gloo",
            "precision": "fp32",
            "compile": False,
            "deterministic": True,
            "git_commit": "0123456789abcdef0123456789abcdef01234567",
            "git_dirty": False,
        }

    def curves(self, run, spec, labels, n_steps, nproc) -> None:
        entry, seed = spec.entry, spec.seed
        rng = np.random.default_rng(
            [seed, 1]
        )  # data noise is that of the seed, as with paired seeds
        own = np.random.default_rng(
            [seed, *map(ord, "-".join(x for x in labels if x != "single" and x not in NPROC))]
        )
        gain = sum(GAIN.get(label, 0.0) for label in labels) + self.gain.get(entry, 0.0)
        t = np.arange(n_steps + 1)

        def level(at, sd):
            drift = 0.015 * rng.standard_normal()
            floor = 1.45 + gain + drift + 0.004 * own.standard_normal()
            return (
                floor
                + (5.55 - floor) * np.exp(-at / (0.16 * spec.train.steps))
                + sd * rng.standard_normal(len(at))
            )

        drift = 1e-7 * (1 + seed) * t * (labels[-1] == "fsdp2")
        loss, val = level(t, 0.05) + drift, level(t, 0.0) + drift
        own = np.random.default_rng(
            [seed, *map(ord, entry)]
        )  # the machine's noise is each run's own
        step_s = 0.040 / np.prod([SPEED.get(label, 1.0) for label in labels])
        step_s = step_s * (
            1 + 0.03 * own.standard_normal() + 0.06 * own.standard_gamma(1, size=(nproc, n_steps))
        )
        step_s[:, : self.n_warmup] *= 5
        files, evals = [run.steps_file(rank) for rank in range(nproc)], run.eval_file()
        for step in range(n_steps + 1):
            if step % spec.train.eval_every == 0 or step == spec.train.steps:
                evals.append(
                    EvalRecord(
                        step=step,
                        val_loss=val[step],
                        bits_per_byte=val[step] / np.log(2),
                        train_s=float(step_s[0, :step].sum()),
                        eval_s=0.1,
                    )
                )
            for rank, file in enumerate(files):
                if step < n_steps:
                    file.append(
                        StepRecord(
                            step=step,
                            loss=loss[step],
                            step_s=step_s[rank, step],
                            tokens=spec.train.tokens_per_step,
                            grad_norm=1.0,
                            lr=1e-3,
                            warmup=step < self.n_warmup,
                        )
                    )
        for file in (*files, evals):
            file.close()

    def probes(self, labels, seed, nproc) -> dict:
        share = 2 if "fsdp2" in labels else 1
        activations = 6_000_000 // nproc + (400_000 if "mha" in labels else 0)
        memory = {
            "parameters": 900_000 // share,
            "gradients": 900_000 // share,
            "optimizer": 1_800_000 // share,
        }
        memory |= {"activations": activations, "other": 250_000 if share == 2 else 0}
        ranks = [
            memory | {"peak": sum(memory.values()) + rank, "resident_peak": 400 * 2**20}
            for rank in range(nproc)
        ]
        return {
            "memory": ranks,
            "flops_per_token": 1.4e6,
            "flops_per_token_counted": 1.4e6,
            "parameters": 222_222 + 64 * ("learned" in labels),
            "predicted_memory": {
                "parameters": 900_000 / share,
                "gradients": 900_000 / share,
                "optimizer": 1_800_000 / share,
            },
            "phases": [self.phases(seed, rank, nproc) for rank in range(nproc)],
            "traffic": [self.traffic(nproc) for _ in range(nproc)],
            "predicted_bytes_sent": 900_000.0 if nproc > 1 else 0.0,
            "initial_hash": "-".join(
                label for label in labels if label not in NPROC and label != "single"
            )
            + f"-{seed}",
            "final_hashes": [f"{'-'.join(labels)}-{seed}"] * nproc,
            "attention_kernels": ["flash"],
            "peak_flops": {
                "value": self.peak and self.peak * nproc / 2,
                "source": "measured: a made-up product",
            },
            "time": {"train_s": 1.0, "eval_s": 0.1, "total_s": 1.5},
        } | self.asked_for(labels, seed)

    def phases(self, seed, rank, nproc) -> dict:
        """Return three samples of a step of 40 ms; rank k of several waits for k + 1 of them."""
        wait = (rank + 1) * 1e-3 if nproc > 1 else 0.0
        jitter = [0.0, 1e-5 * (seed + 1), -1e-5]
        whole = {
            "forward_s": 12e-3,
            "backward_s": 24e-3 - wait,
            "optimizer_s": 3e-3,
            "waiting_s": wait,
            "other_s": 1e-3,
        }
        return {phase: [seconds + of for of in jitter] for phase, seconds in whole.items()}

    def traffic(self, nproc) -> dict:
        return (
            {"all_reduce": {"calls": 2, "payload_bytes": 900_000, "sent_bytes": 900_000.0}}
            if nproc > 1
            else {}
        )

    def asked_for(self, labels, seed) -> dict:
        found = {"decoding": self.decoding(labels, seed)} if self.decode else {}
        at_lengths = [self.at_length(labels, seed, length) for length in self.lengths or ()]
        return found | ({"lengths": at_lengths} if at_lengths else {})

    def decoding(self, labels, seed) -> list[dict]:
        return [
            self.decoded(labels, seed, batch, context)
            for batch, context in itertools.product(*self.decode)
        ]

    def decoded(self, labels, seed, batch, context) -> dict:
        """Return a decode record: learned positions end at 128, gqa2 halves the KV cache."""
        record = {"batch": batch, "context": context}
        if "learned" in labels and context > 128:
            undefined = {"prefill_s": [], "decode_s": [], "cache_bytes": None}
            return record | undefined | {"reason": "no positions beyond seq_len = 128"}
        own = np.random.default_rng([seed, batch, context, *map(ord, "-".join(labels))])
        positions = min(context, 64) if "local64" in labels else context
        cache_bytes = 2 * 4 * 64 * 4 * batch * positions // (2 if "gqa2" in labels else 1)
        decode_s = (1e-3 + 4e-9 * cache_bytes) * (
            1 + 0.02 * own.standard_normal() + 0.05 * own.standard_gamma(1, 40)
        )
        prefill_s = 2e-6 * batch * context * (1 + 0.05 * own.standard_gamma(1, 5))
        times = {"prefill_s": prefill_s.tolist(), "decode_s": decode_s.tolist()}
        return record | times | {"cache_bytes": cache_bytes, "reason": None}

    def at_length(self, labels, seed, length) -> dict:
        """Return a length record: learned positions end at 128, beyond which rope's loss rises."""
        record = {"length": length, "val_loss": None, "loss_by_position": [], "windows": 0}
        if "learned" in labels and length > 128:
            return record | {"reason": "no positions beyond seq_len = 128"}
        own = np.random.default_rng(
            [seed, length, *map(ord, "-".join(x for x in labels if x not in NPROC))]
        )
        noise = np.random.default_rng([seed, length]).standard_normal(
            length
        ) + 0.3 * own.standard_normal(length)
        position = np.arange(1, length + 1)
        beyond = 0.2 * np.log2(np.maximum(position / 128, 1)) if "rope" in labels else 0.0
        loss = (
            1.4
            + sum(GAIN.get(label, 0.0) for label in labels)
            + 2.5 / position**0.8
            + beyond
            + 0.05 * noise
        )
        bins = np.array_split(loss, min(length, 1024))
        found = {
            "val_loss": float(loss.mean()),
            "loss_by_position": [float(part.mean()) for part in bins],
        }
        return record | found | {"windows": 100_000 // length, "reason": None}
