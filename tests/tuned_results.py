"""Synthetic results of a study that tunes: trials, choices and final runs with planted losses."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from synthetic_results import SyntheticStudy

from harness.analysis import tuning
from harness.results.records import (
    EquivalenceMargin,
    EvalRecord,
    LaunchRecord,
    ProbeResults,
    RunSpec,
    StepRecord,
    TunedEntry,
    TuneSettings,
    TuningRecord,
    TuningTrial,
    VariantChoice,
)
from harness.results.run_data import RunData, read_run

UNTUNED_LR = 1e-3


@dataclass
class TunedStudy(SyntheticStudy):
    """`loss(entry, lr)` is the planted loss; each seed adds the same noise to both entries."""

    axes: dict[str, list[str]] = field(
        default_factory=lambda: {"positional": ["learned", "rope"], "parallelism": ["single"]}
    )
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    lrs: list[float] = field(default_factory=lambda: [3e-4, 1e-3, 3e-3, 1e-2])
    tuning_seeds: tuple[int, ...] = (100, 101)
    loss: Callable[[str, float], float] = lambda entry, lr: 1.5 + abs(np.log10(lr / 3e-3))
    diverges: Callable[[str, float], bool] = lambda entry, lr: False
    margin: float | None = 0.01
    has_finals: bool = True
    _current: tuple[str, float] = ("", 0.0)

    @property
    def tune_settings(self) -> TuneSettings:
        return TuneSettings(
            axes={"train.lr": self.lrs},
            method="grid",
            seeds=list(self.tuning_seeds),
            budget=len(self.lrs),
        )

    def write(self) -> "TunedStudy":
        self.baseline = {axis: labels[0] for axis, labels in self.axes.items()}
        self.baseline["tuning"] = "untuned"
        entries = {f"{first}-single": first for first in self.axes["positional"]}
        order = []
        tuned = []
        for entry, first in entries.items():
            trials = [
                self.write_run(entry, first, lr, f"lr{lr:g}", seed, i)
                for i, lr in enumerate(self.lrs)
                for seed in self.tuning_seeds
            ]
            order += trials
            planned = TunedEntry(entry=entry, untuned={"train.lr": UNTUNED_LR}, trials=trials)
            runs = [read_run(self.store.run(self.name, run_id)) for run_id in trials]
            assert all(isinstance(run, RunData) for run in runs)
            tuned.append(tuning.choose(planned, runs) if self.has_finals else planned)
        record = TuningRecord(
            settings_hash=self.settings_hash, settings=self.tune_settings, entries=tuned
        )
        self.store.record_tuning(self.name, record)
        for found in tuned if self.has_finals else ():
            levels = {"untuned": UNTUNED_LR, "tuned": (found.chosen or {}).get("train.lr")}
            for label, lr in levels.items():
                if lr is not None:
                    first = entries[found.entry]
                    order += [
                        self.write_run(found.entry, first, lr, label, seed) for seed in self.seeds
                    ]
        launch = LaunchRecord(
            order=order,
            settings_hash=self.settings_hash,
            equivalence_margin=EquivalenceMargin(val_loss=self.margin),
        )
        self.store.record_launch(self.name, launch)
        return self

    def write_run(
        self, entry: str, first: str, lr: float, label: str, seed: int, index: int | None = None
    ) -> str:
        """Write a trial, or a final run without an index; return its id."""
        name = f"{entry}-{label}"
        self._current = (entry, lr)
        prefix = "" if index is None else "tune-"
        run_id = f"{prefix}{name}-s{seed}-{self.settings_hash}"
        base = self.spec(name, (first, "single"), seed, None, run_id, 1)
        choice = VariantChoice(name="tuning", label=label, options={"train.lr": lr})
        trial = None
        if index is not None:
            trial = TuningTrial(entry=entry, settings={"train.lr": lr}, index=index)
        spec = base.model_copy(
            update={
                "axes": base.axes | {"tuning": choice},
                "train": base.train.model_copy(update={"lr": lr}),
                "eval_windows": "final" if trial is None else "tuning",
                "tuning": trial,
            }
        )
        self.write_spec(spec)
        return run_id

    def write_spec(self, spec: RunSpec) -> None:
        run = self.store.run(self.name, spec.run_id)
        run.path.mkdir(parents=True, exist_ok=True)
        run.create(spec)
        run.mark_running()
        labels = (spec.axes["positional"].label, "single")
        if self.diverges(*self._current):
            run.finish("failed", "nan", "NotFiniteError: the loss is not finite")
            return
        steps = run.steps_file(0)
        for step in range(self.steps):
            steps.append(
                StepRecord(
                    step=step,
                    loss=2.0,
                    step_s=0.04,
                    tokens=self.tokens,
                    grad_norm=1.0,
                    lr=self._current[1],
                    warmup=step < self.n_warmup,
                )
            )
        steps.close()
        noise = np.random.default_rng([spec.seed, 7]).normal(0, 0.02)
        own = np.random.default_rng([spec.seed, *map(ord, spec.entry)]).normal(0, 0.002)
        final = self.loss(*self._current) + noise + own
        evals = run.eval_file()
        for step, loss in ((0, 5.55), (self.steps, final)):
            evals.append(
                EvalRecord(
                    step=step,
                    val_loss=loss,
                    bits_per_byte=loss / np.log(2),
                    train_s=step * 0.04,
                    eval_s=0.1,
                )
            )
        evals.close()
        run.write_probes(ProbeResults.model_validate(self.probes(labels, spec.seed, 1)))
        run.finish("done")
