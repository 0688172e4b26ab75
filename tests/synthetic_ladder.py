"""Synthetic ladders: made-up runs of several sizes whose final losses follow a planted law."""

from dataclasses import dataclass, field

import numpy as np
from synthetic_results import SyntheticStudy

from harness.results.records import EvalRecord, LadderSettings, LaunchRecord, RunSpec, StepRecord

IRREDUCIBLE = 1.4
REDUCIBLE = 1.0  # nats at the smallest size
EXPONENT = 0.25


@dataclass
class SyntheticLadder(SyntheticStudy):
    """Sizes S0, S1, ... whose parameters and tokens grow by `growth`, FLOPs by its square.

    An entry's loss is that of a baseline with `gains[label]` times the compute, times
    `drift[label]` for each size above the first. `flops[label]` multiplies the FLOPs per token,
    `speed[label]` divides the step time.
    """

    n_sizes: int = 4
    growth: float = 2.0
    gains: dict[str, float] = field(default_factory=lambda: {"gqa2": 1.2})
    drift: dict[str, float] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)
    speed: dict[str, float] = field(default_factory=dict)
    noise: float = 0.001  # nats, of each run
    seed_noise: float = 0.005  # nats, shared by the entries of a seed and size
    ladder: LadderSettings | None = field(default_factory=lambda: LadderSettings(axis="size"))
    compare: list[str] | None = field(default_factory=lambda: ["attention"])

    def write(self) -> "SyntheticLadder":
        sizes = [f"S{i}" for i in range(self.n_sizes)]
        self.settings = {
            "size": {
                size: {
                    "model.n_layer": 2 + i,
                    "train.tokens_per_step": round(1024 * self.growth**i),
                }
                for i, size in enumerate(sizes)
            }
        }
        self.axes = {
            "positional": ["learned"],
            "attention": self.axes["attention"][:2],
            "parallelism": ["single"],
            "size": sizes,
        }
        self.baseline = {axis: labels[0] for axis, labels in self.axes.items()}
        super().write()
        launch = LaunchRecord(
            command="python -m harness run ladder.toml",
            order=[],
            settings_hash=self.settings_hash,
            compare=self.compare,
            ladder=self.ladder,
        )
        self.store.record_launch(self.name, launch)
        return self

    def of_size(self, labels) -> tuple[int, int, float]:
        """Return parameters, tokens per step and FLOPs per token of a run."""
        scale = self.growth ** int(labels[-1].removeprefix("S"))
        parameters = round(100_000 * scale)
        factor = self.flops.get(labels[1], 1.0)
        return parameters, round(1024 * scale), 6.0 * parameters * factor

    def compute(self, labels) -> float:
        _, tokens, flops_per_token = self.of_size(labels)
        return flops_per_token * tokens * self.steps

    def true_loss(self, labels) -> float:
        smallest = 6.0 * 100_000 * 1024 * self.steps
        size = int(labels[-1].removeprefix("S"))
        gain = self.gains.get(labels[1], 1.0) * self.drift.get(labels[1], 1.0) ** size
        return IRREDUCIBLE + REDUCIBLE * (gain * self.compute(labels) / smallest) ** -EXPONENT

    def spec(self, entry, labels, seed, data_seed, run_id, nproc) -> RunSpec:
        spec = super().spec(entry, labels, seed, data_seed, run_id, nproc)
        parameters, _, flops_per_token = self.of_size(labels)
        expected = {"parameters": parameters, "flops_per_token": flops_per_token}
        return spec.model_copy(update={"expected": spec.expected.model_copy(update=expected)})

    def curves(self, run, spec, labels, n_steps, nproc) -> None:
        seed = spec.seed
        shared = np.random.default_rng([seed, *map(ord, labels[-1])])
        own = np.random.default_rng([seed, *map(ord, spec.entry)])
        final = self.true_loss(labels) + self.seed_noise * shared.standard_normal()
        final += self.noise * own.standard_normal()
        _, tokens, flops_per_token = self.of_size(labels)
        step_s = flops_per_token * tokens / 1e11 / self.speed.get(labels[1], 1.0)
        steps = run.steps_file(0)
        evals = run.eval_file()
        for step in range(n_steps):
            time_s = step_s * (1 + 0.02 * own.standard_normal())
            is_warmup = step < self.n_warmup
            steps.append(
                StepRecord(
                    step=step,
                    loss=final + 3.0 * 0.5**step,
                    step_s=time_s,
                    tokens=tokens,
                    grad_norm=1.0,
                    lr=1e-3,
                    warmup=is_warmup,
                )
            )
        for step in (0, n_steps):
            loss = final if step else 5.55
            evals.append(
                EvalRecord(
                    step=step,
                    val_loss=loss,
                    bits_per_byte=loss / np.log(2),
                    train_s=step * step_s,
                    eval_s=0.1,
                )
            )
        steps.close()
        evals.close()

    def probes(self, labels, seed, nproc) -> dict:
        parameters, _, flops_per_token = self.of_size(labels)
        return super().probes(labels, seed, nproc) | {
            "parameters": parameters,
            "flops_per_token": flops_per_token,
            "flops_per_token_counted": flops_per_token,
        }
