"""What the runs of a study start from where not from first values: a checkpoint, or what another run learned."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Size, Tensor

from harness.config.axes import Axes, Entry
from harness.config.study_file import InitSettings, describe
from harness.errors import Problem, UserError, choices
from harness.model.builder import ModelBuilder
from harness.model.initialization import IncompatibleWeightsError, initial_tensors
from harness.model.weights import Weights, load
from harness.results.records import TrainSettings
from variants import registry
from variants.base import AXES, ModelShape

CHECKPOINT_KEY = "init.from_checkpoint"
RUN_KEY = "init.from_run"
MOST_TOLD = 3  # tensors of an entry: what does not fit in one layer does not in all


@dataclass(frozen=True)
class Checkpoint:
    """A folder of weights."""

    folder: Path
    weights: Weights


@dataclass(frozen=True)
class SourceRun:
    """A run of the study's own that others start from, one for each seed: its choices, and how it is trained."""

    entry: Entry
    train: TrainSettings


Source = Checkpoint | SourceRun


def read(
    init: InitSettings, axes: Axes, baseline: Entry, train: TrainSettings, beside: Path
) -> Source | None:
    """Return what `[init]` names, or None where it states a problem, which `axes` then holds."""
    if init.from_checkpoint is not None:
        try:
            folder = (beside / init.from_checkpoint).resolve()
            return Checkpoint(folder, load(folder))
        except UserError as error:
            axes.problems += [
                Problem(f"{axes.place}: {CHECKPOINT_KEY}", str(problem))
                for problem in error.problems
            ]
            return None
    stated = init.from_run or {}
    n_before = len(axes.problems)
    for axis in stated.keys() - AXES.keys() - {"train"}:
        axes.complain(f"{RUN_KEY}.{axis}", f"no such axis; {choices(axis, [*AXES, 'train'])}")
    chosen = {
        axis: axes.choose(axis, stated[axis], f"{RUN_KEY}.{axis}")
        for axis in AXES
        if axis in stated
    }
    entry = {axis: choice for axis in AXES if (choice := chosen.get(axis, baseline.get(axis)))}
    trained = _changed(train, stated.get("train", {}), axes)
    return None if trained is None or len(axes.problems) > n_before else SourceRun(entry, trained)


def _changed(train: TrainSettings, changes: Any, axes: Axes) -> TrainSettings | None:
    if not isinstance(changes, dict):
        axes.complain(f"{RUN_KEY}.train", f"{changes!r}: must be a table, e.g. {{ steps = 500 }}")
        return None
    try:
        return TrainSettings.model_validate(train.model_dump() | changes)
    except ValidationError as error:
        for key, message in describe(error, TrainSettings):
            axes.complain(f"{RUN_KEY}.train.{key}", message)
        return None


def idle_conversions(
    place: str, entries: Iterable[Entry], paths: Sequence[Path]
) -> Iterable[Problem]:
    """An option that says how to start from a checkpoint says nothing where there is none."""
    distinct = {(axis, choice.label): choice for entry in entries for axis, choice in entry.items()}
    for (axis, _), choice in distinct.items():
        for field in dataclasses.fields(registry.load(axis, choice.name, paths).Options):
            if field.metadata.get("conversion") and choice.options[field.name] != field.default:
                message = f"{choice.label}: `{field.name}` says how to start from a checkpoint, and there is no [init]"
                yield Problem(f"{place}: axes.{axis}", message)


def incompatible_tensors(
    place: str, source: Source, entries: Iterable[Entry], shape: ModelShape, paths: Sequence[str]
) -> Iterable[Problem]:
    """Every entry's model must be able to start from the source's weights; told by shapes, without values."""
    key = CHECKPOINT_KEY if isinstance(source, Checkpoint) else RUN_KEY
    if isinstance(source, Checkpoint):
        theirs, there = (
            {name: tensor.shape for name, tensor in source.weights.tensors.items()},
            source.weights.shape,
        )
        differ = [
            Problem(
                f"{place}: {key}",
                f"{name} = {getattr(there, name)} in {source.folder}, {getattr(shape, name)} here",
            )
            for name in ("n_layer", "n_head", "n_embd", "vocab_size")
            if getattr(there, name) != getattr(shape, name)
        ]
        if differ:
            yield from differ
            return
    else:
        theirs = _shapes(ModelBuilder(shape, source.entry, paths))
    meta = {name: _meta(size) for name, size in theirs.items()}
    models = {(entry["positional"].label, entry["attention"].label): entry for entry in entries}
    for labels, entry in models.items():
        try:
            list(
                initial_tensors(
                    ModelBuilder(shape, entry, paths).model(), lambda _, size: _meta(size), meta
                )
            )
        except IncompatibleWeightsError as error:
            told, more = error.problems[:MOST_TOLD], len(error.problems) - MOST_TOLD
            told += [f"and {more} more"] if more > 0 else []
            yield from (
                Problem(f"{place}: {key}", f"{'-'.join(labels)}: {problem}") for problem in told
            )


def _shapes(parts: ModelBuilder) -> dict[str, Size]:
    return {name: parameter.shape for name, parameter in parts.model().named_parameters()}


def _meta(size: Size) -> Tensor:
    return torch.empty(size, device="meta")
