"""Runs in the form that experiment trackers take: settings, results, and curves by step."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from harness.analysis.study_frames import StudyFrames
from harness.results.frames import RUN_COLUMNS
from harness.results.run_data import RunData

Setting = str | int | float | bool

RESULTS = [column.name for column in RUN_COLUMNS if column.dtype in ("int64", "Int64", "float64")]


@dataclass(frozen=True)
class Point:
    """Values at one step: number of steps done, training time in seconds, values by name."""

    step: int
    time_s: float
    values: dict[str, float]


@dataclass(frozen=True)
class ExportedRun:
    """A run with its settings and results. A run that is not done has no results."""

    data: RunData
    axes: dict[str, str]
    results: dict[str, float]

    @property
    def run_id(self) -> str:
        """The run's folder, which is its name in every tool."""
        return self.data.run_id

    @property
    def entry(self) -> str:
        """The labels of the axes."""
        return self.data.spec.entry

    @property
    def started_s(self) -> float:
        """The start of the run, seconds since the epoch; 0 if unknown."""
        if self.data.started_at is None:
            return 0.0
        return datetime.fromisoformat(self.data.started_at).timestamp()

    @property
    def settings(self) -> dict[str, Setting]:
        """The axes, the seeds, and the settings of model, data and training."""
        settings: dict[str, Setting] = dict(self.axes)
        settings["seed"] = self.data.seed
        settings["data_seed"] = self.data.order_seed
        if self.data.imported:
            return settings
        spec = self.data.resolved
        for section, values in (("model", spec.model), ("data", spec.data), ("train", spec.train)):
            for key, value in values:
                is_scalar = isinstance(value, str | int | float)
                settings[f"{section}.{key}"] = value if is_scalar else str(value)
        return settings

    def points(self) -> Iterator[Point]:
        """Yield the curves by step; values that are not finite are left out.

        A training step counts as done at its end, so that its values and those of an evaluation
        after it share a point.
        """
        points: dict[int, Point] = {}
        steps = self.data.steps
        ends_s = np.cumsum(steps.step_s)
        for i, step in enumerate(steps.step.tolist()):
            values = {
                "train/loss": float(steps.loss[i]),
                "train/grad_norm": float(steps.grad_norm[i]),
                "train/lr": float(steps.lr[i]),
                "train/step_s": float(steps.step_s[i]),
            }
            points[step + 1] = Point(step + 1, float(ends_s[i]), values)
        evals = self.data.evals
        for i, step in enumerate(evals.step.tolist()):
            point = points.setdefault(step, Point(step, float(evals.train_s[i]), {}))
            point.values["val/loss"] = float(evals.val_loss[i])
            point.values["val/bits_per_byte"] = float(evals.bits_per_byte[i])
            point.values["val/ema_loss"] = float(evals.ema_val_loss[i])
        for step in sorted(points):
            point = points[step]
            finite = {name: value for name, value in point.values.items() if np.isfinite(value)}
            yield Point(step, point.time_s, finite)


def recorded_runs(study: StudyFrames) -> list[ExportedRun]:
    """Return every run that has recorded a step or is imported, in the study's order."""
    rows = study.runs.set_index("run_id")
    runs = []
    for data in study.recorded:
        row = rows.loc[data.run_id]
        results = {name: float(row[name]) for name in RESULTS if pd.notna(row[name])}
        axes = {axis: str(row[axis]) for axis in study.axes}
        runs.append(ExportedRun(data, axes, results))
    return runs


def with_progress(runs: list[ExportedRun]) -> Iterable[ExportedRun]:
    """Iterate over the runs, with a progress bar on a terminal."""
    console = Console(stderr=True)
    is_hidden = not console.is_terminal
    return track(runs, "exporting", console=console, transient=True, disable=is_hidden)
