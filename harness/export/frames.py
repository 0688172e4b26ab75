"""What is exported of each run, in the store's own numbers, and the three tables that hold it.

A run of an entry whose `equivalence` is DIVERGES has no `tokens_per_s`, `step_s` and `mfu`, as in the report; its steps
have their times.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from harness.analysis import equivalence
from harness.analysis import metrics as results
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.metrics import EquivalenceStatus
from harness.results.run_data import RunData
from harness.results.upgrade import Json

Kind = type[str] | type[int] | type[float] | type[bool]
Columns = dict[str, np.ndarray | list[Any]]

RUNS: dict[str, Kind] = {
    "status": str,
    "reason": str,
    "started_at": str,
    "steps_recorded": int,
    "val_loss": float,
    "bits_per_byte": float,
    "tokens_per_s": float,
    "step_s": float,
    "peak_memory_bytes": int,
    "mfu": float,
    "parameters": int,
    "flops_per_token": float,
    "equivalence": str,
    "host": str,
    "git_commit": str,
}
STEPS: dict[str, Kind] = {
    "step": int,
    "loss": float,
    "step_s": float,
    "tokens": int,
    "grad_norm": float,
    "lr": float,
    "warmup": bool,
}
EVALS: dict[str, Kind] = {"step": int, "val_loss": float, "bits_per_byte": float, "train_s": float}


@dataclass(frozen=True)
class Record:
    """A run with the entry it belongs to, and its results: the keys of `RUNS`, None for what it has not."""

    run: RunData
    entry: str
    axes: dict[str, str]
    results: Json

    @property
    def settings(self) -> dict[str, str | int | float | bool]:
        """What the run was asked for: its axes, its seed, and the settings of model, data and training."""
        found: dict[str, Any] = {
            **self.axes,
            "seed": self.run.seed,
            "data_seed": self.run.order_seed,
        }
        for section in ("model", "data", "train"):
            found |= {
                f"{section}.{key}": value
                for key, value in getattr(self.run.spec, section).model_dump().items()
            }
        return {
            key: value if isinstance(value, str | int | float) else str(value)
            for key, value in found.items()
        }

    @property
    def metrics(self) -> dict[str, float]:
        """The results that are numbers, as far as there are any."""
        return {
            key: float(value)
            for key, value in self.results.items()
            if RUNS[key] in (int, float) and value is not None
        }

    @property
    def began(self) -> float:
        """When the run started, seconds since the epoch; 0 where that is not known."""
        return (
            datetime.fromisoformat(self.run.started_at).timestamp() if self.run.started_at else 0.0
        )

    def points(self) -> Iterator[tuple[int, float, dict[str, float]]]:
        """Yield the steps done, the time since the start in seconds, and what was recorded then, by step.

        A training step counts once it is done, as evaluations do; what is no finite number is left out.
        """
        steps, evals = self.run.steps, self.run.evals
        found: dict[int, tuple[float, dict[str, float]]] = {}
        columns = {
            "train/loss": steps.loss,
            "train/grad_norm": steps.grad_norm,
            "train/lr": steps.lr,
            "train/step_s": steps.step_s,
        }
        for i, (step, at) in enumerate(
            zip(steps.step.tolist(), np.cumsum(steps.step_s).tolist(), strict=True)
        ):
            found[step + 1] = at, {name: float(column[i]) for name, column in columns.items()}
        for step, loss, bits, at in zip(
            evals.step, evals.val_loss, evals.bits_per_byte, evals.train_s, strict=True
        ):
            _, values = found.setdefault(int(step), (float(at), {}))
            values |= {"val/loss": float(loss), "val/bits_per_byte": float(bits)}
        for step in sorted(found):
            at, values = found[step]
            yield step, at, {name: value for name, value in values.items() if np.isfinite(value)}


def records(study: StudyResults) -> list[Record]:
    """Return every run that has recorded a step, in the study's order."""
    verdicts = equivalence.verdicts(equivalence.equivalence(study))
    return [
        Record(run, entry.label, entry.axes, _results(run, entry, verdicts.get(entry.label)))
        for entry in study.entries
        for run in (*entry.runs, *entry.crossed)
        if len(run.steps)
    ]


def _results(run: RunData, entry: Entry, verdict: EquivalenceStatus | None) -> Json:
    found: Json = dict.fromkeys(RUNS) | {
        "status": run.status,
        "reason": run.reason,
        "started_at": run.started_at,
        "steps_recorded": len(run.steps),
        "equivalence": verdict,
        "host": run.env and run.env.host,
        "git_commit": run.env and run.env.git_commit,
    }
    if run.status != "done":
        return found
    alone = results.result(Entry(entry.label, entry.axes, (run,)), verdict)
    assert alone.val_loss and alone.bits_per_byte
    return found | {
        "val_loss": alone.val_loss.mean,
        "bits_per_byte": alone.bits_per_byte.mean,
        "tokens_per_s": alone.tokens_per_s and alone.tokens_per_s.median,
        "step_s": alone.step_s and alone.step_s.median,
        "peak_memory_bytes": alone.peak_memory_bytes,
        "mfu": alone.mfu,
        "parameters": alone.parameters,
        "flops_per_token": alone.flops_per_token,
    }


def shown(records: Sequence[Record]) -> Iterable[Record]:
    """Go through the records, with the time left on a terminal."""
    console = Console(stderr=True)
    return track(
        records, "exporting", console=console, transient=True, disable=not console.is_terminal
    )


def tables(records: Sequence[Record]) -> Iterator[tuple[str, dict[str, Kind], Iterator[Columns]]]:
    """Yield the name of each table, its columns with their types, and a part of it for each run."""
    axes: dict[str, Kind] = {
        "run_id": str,
        "entry": str,
        **dict.fromkeys(records[0].axes, str),
        "seed": int,
    }
    axes["data_seed"] = int
    yield (
        "runs",
        axes | RUNS,
        (_named(one, {key: [one.results[key]] for key in RUNS}) for one in records),
    )
    yield (
        "steps",
        axes | STEPS,
        (_named(one, {key: getattr(one.run.steps, key) for key in STEPS}) for one in records),
    )
    yield (
        "evals",
        axes | EVALS,
        (_named(one, {key: getattr(one.run.evals, key) for key in EVALS}) for one in records),
    )


def _named(record: Record, columns: Columns) -> Columns:
    n = len(next(iter(columns.values())))
    named = {
        "run_id": record.run.run_id,
        "entry": record.entry,
        **record.axes,
        "seed": record.run.seed,
    }
    named["data_seed"] = record.run.order_seed
    return {key: [value] * n for key, value in named.items()} | columns
