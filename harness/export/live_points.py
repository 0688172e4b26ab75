"""The points of a run that trains, read from its files as they grow."""

import os
from collections.abc import Sequence
from pathlib import Path

import orjson

from harness.export.runs import Point, eval_values, train_point
from harness.results.files import open_file
from harness.results.records import EvalRecord, StepRecord
from harness.results.run import Run


class _GrowingFile:
    """A file of JSON lines. Each line is returned once, until the file is replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._offset = 0

    def new_lines(self) -> list[bytes]:
        """Return the whole lines since the last call; all, if the file has been replaced."""
        try:
            with open_file(self._path) as file:
                state = os.fstat(file.fileno())
                if state.st_ino != self._inode or state.st_size < self._offset:
                    self._inode = state.st_ino
                    self._offset = 0
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return []
        end = content.rfind(b"\n") + 1
        self._offset += end
        return content[:end].splitlines()


class LivePoints:
    """The points of a run, each returned once it is complete: `take`, again and again.

    A step is complete when every rank has recorded it and rank 0 has recorded the next one, as an
    evaluation comes between the two.
    """

    def __init__(self, run: Run, world_size: int, next_step: int = 0) -> None:
        self._next_step = next_step
        self._ranks = [_GrowingFile(run.steps_path(rank)) for rank in range(world_size)]
        self._steps: list[dict[int, StepRecord]] = [{} for _ in self._ranks]
        self._evals_file = _GrowingFile(run.evals_path)
        self._evals: dict[int, EvalRecord] = {}
        self._n_merged = 0
        self._end_s = 0.0
        self._merged: dict[int, Point] = {}

    def take(self, has_ended: bool = False) -> list[Point]:
        """Return the new points by step; with `has_ended`, also the last one."""
        for file, steps in zip(self._ranks, self._steps, strict=True):
            for line in file.new_lines():
                step = StepRecord.model_validate(orjson.loads(line))
                if step.step >= self._n_merged:
                    steps[step.step] = step
        for line in self._evals_file.new_lines():  # after the steps: theirs are there by now
            record = EvalRecord.model_validate(orjson.loads(line))
            self._evals[record.step] = record
        self._merge_steps()
        complete = max(self._merged, default=0)
        if has_ended:
            complete = max([complete, *self._evals]) + 1
        return list(self._points_before(complete))

    def _merge_steps(self) -> None:
        """Merge the steps that every rank has recorded, without gaps."""
        while all(self._n_merged in steps for steps in self._steps):
            records = [steps.pop(self._n_merged) for steps in self._steps]
            step_s = max(record.step_s for record in records)
            self._end_s += step_s
            first = records[0]
            self._merged[self._n_merged + 1] = train_point(
                self._n_merged,
                self._end_s,
                loss=_number(first.loss),
                grad_norm=_number(first.grad_norm),
                lr=first.lr,
                step_s=step_s,
            )
            self._n_merged += 1

    def _points_before(self, end: int) -> Sequence[Point]:
        points = []
        for step in sorted({*self._merged, *self._evals}):
            if step >= end:
                break
            record = self._evals.pop(step, None)
            point = self._merged.pop(step, None)
            if record is not None:
                point = point or Point(step, record.train_s, {})
                losses = (record.val_loss, record.bits_per_byte, record.ema_val_loss)
                point.values.update(eval_values(*map(_number, losses)))
            if point is not None and step >= self._next_step:
                self._next_step = step + 1
                points.append(point.finite())
        return points


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
