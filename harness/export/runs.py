"""Runs in the form that experiment trackers take: settings, results, and curves by step.

A tracker's module has `start`, which opens one run in it. An export and a live run both write
through it, so that they look the same.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from harness.analysis.study_frames import StudyFrames
from harness.results.frames import RUN_COLUMNS
from harness.results.records import ImportedRun, RunSpec, RunState
from harness.results.run_data import RunData
from harness.results.titles import SEPARATOR

Setting = str | int | float | bool

RESULTS = [column.name for column in RUN_COLUMNS if column.dtype in ("int64", "Int64", "float64")]


@dataclass(frozen=True)
class Point:
    """Values at one step: number of steps done, training time in seconds, values by name."""

    step: int
    time_s: float
    values: dict[str, float]

    def finite(self) -> "Point":
        """Return the point without the values that are not finite."""
        finite = {name: value for name, value in self.values.items() if np.isfinite(value)}
        return Point(self.step, self.time_s, finite)


def train_point(
    step: int, end_s: float, loss: float, grad_norm: float, lr: float, step_s: float
) -> Point:
    """Return the point of a training step, counted from 0, which ended after `end_s`.

    A training step counts as done at its end, so that its values and those of an evaluation after
    it share a point.
    """
    values = {
        "train/loss": loss,
        "train/grad_norm": grad_norm,
        "train/lr": lr,
        "train/step_s": step_s,
    }
    return Point(step + 1, end_s, values)


def eval_values(val_loss: float, bits_per_byte: float, ema_val_loss: float) -> dict[str, float]:
    """Return the values of an evaluation by name."""
    return {
        "val/loss": val_loss,
        "val/bits_per_byte": bits_per_byte,
        "val/ema_loss": ema_val_loss,
    }


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker names it, with its settings.

    `started_s` is the start of the run, seconds since the epoch; 0 if unknown.
    """

    study: str
    run_id: str
    entry: str
    axes: dict[str, str]
    settings: dict[str, Setting]
    started_s: float

    @classmethod
    def of(cls, spec: RunSpec | ImportedRun, started_at: str | None) -> "TrackedRun":
        """Return a run by its spec and the time of its start."""
        started_s = 0.0 if started_at is None else datetime.fromisoformat(started_at).timestamp()
        return cls(
            study=spec.study,
            run_id=spec.run_id,
            entry=spec.entry,
            axes=spec.labels,
            settings={**run_settings(spec), **spec.labels},
            started_s=started_s,
        )


@dataclass(frozen=True)
class RunEnd:
    """How a run ended: its status, and its results if it is done."""

    status: RunState
    results: Mapping[str, float]


class Tracker(Protocol):
    """A run that is open in a tracker."""

    @property
    def next_step(self) -> int:
        """The first step that the tracker does not have yet."""

    def log(self, points: list[Point]) -> None:
        """Add points, in the order of their steps; values are finite."""

    def finish(self, end: RunEnd) -> None:
        """Close the run."""


# Opens a run in a folder. If it continues, the points that the tracker has are kept; else they are
# replaced.
StartTracker = Callable[[TrackedRun, Path, bool], Tracker]


def run_settings(spec: RunSpec | ImportedRun) -> dict[str, Setting]:
    """Return the seeds, the title, the options of the variants, and the settings of a run.

    The settings are those of model, data and training. Of an imported run, only seeds and title are
    known. A value that is not a scalar becomes text; one that is not set is omitted.
    """
    title = SEPARATOR.join(choice.title or choice.label for choice in spec.axes.values())
    settings: dict[str, Setting] = {"seed": spec.seed, "data_seed": spec.order_seed}
    settings["entry_title"] = title or spec.entry
    if isinstance(spec, ImportedRun):
        return settings
    values: dict[str, object] = {}
    for axis, choice in spec.variants.items():
        values |= {f"{axis}.{name}": value for name, value in choice.options.items()}
    for section, table in (("model", spec.model), ("data", spec.data), ("train", spec.train)):
        values |= {f"{section}.{name}": value for name, value in table}
    for key, value in values.items():
        if value is not None:
            settings[key] = value if isinstance(value, str | int | float) else str(value)
    return settings


def points(run: RunData) -> Iterator[Point]:
    """Yield the curves by step; values that are not finite are left out."""
    by_step: dict[int, Point] = {}
    steps = run.steps
    ends_s = np.cumsum(steps.step_s)
    for i, step in enumerate(steps.step.tolist()):
        by_step[step + 1] = train_point(
            step,
            float(ends_s[i]),
            loss=float(steps.loss[i]),
            grad_norm=float(steps.grad_norm[i]),
            lr=float(steps.lr[i]),
            step_s=float(steps.step_s[i]),
        )
    evals = run.evals
    for i, step in enumerate(evals.step.tolist()):
        point = by_step.setdefault(step, Point(step, float(evals.train_s[i]), {}))
        losses = (evals.val_loss[i], evals.bits_per_byte[i], evals.ema_val_loss[i])
        point.values.update(eval_values(*map(float, losses)))
    for step in sorted(by_step):
        yield by_step[step].finite()


def frames_with_settings(study: StudyFrames) -> dict[str, pd.DataFrame]:
    """Return `runs`, `steps` and `evals`; `runs` has a column for each setting and option.

    A column whose values have several types is text.
    """
    frames = study.recorded_frames()
    rows = [run_settings(run.spec) for run in study.recorded]
    settings = pd.DataFrame(rows, index=frames["runs"].index).convert_dtypes()
    settings = settings.drop(columns=["seed", "data_seed"])
    for name in settings.select_dtypes("object"):
        settings[name] = settings[name].astype("string")
    frames["runs"] = pd.concat([frames["runs"], settings], axis="columns")
    return frames


def results_of(row: pd.Series) -> dict[str, float]:
    """Return the results of a row of the frame `runs` that are known."""
    return {name: float(row[name]) for name in RESULTS if pd.notna(row[name])}


def export_runs(study: StudyFrames, folder: Path, start: StartTracker) -> None:
    """Write every run that has recorded a step or is imported, in the study's order."""
    rows = study.runs.set_index("run_id")
    for data in _with_progress(study.recorded):
        tracker = start(TrackedRun.of(data.spec, data.started_at), folder, False)
        tracker.log(list(points(data)))
        tracker.finish(RunEnd(data.status, results_of(rows.loc[data.run_id])))


def _with_progress(runs: list[RunData]) -> Iterable[RunData]:
    """Iterate over the runs, with a progress bar on a terminal."""
    console = Console(stderr=True)
    is_hidden = not console.is_terminal
    return track(runs, "exporting", console=console, transient=True, disable=is_hidden)
