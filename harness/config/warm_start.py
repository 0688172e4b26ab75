"""Read and check `[init]`: the checkpoint or the run that the runs of a study start from."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Size, Tensor

from harness.config.axes import Axes
from harness.config.entries import EntryResolver, PlannedEntry
from harness.errors import Problem, UserError, choices
from harness.model.builder import ModelBuilder
from harness.model.initialization import IncompatibleWeightsError, initial_tensors
from harness.model.weights import Trust, Weights, load_weights
from harness.results.files import absolute
from harness.study.axes import VariantSelection
from harness.study.schema_errors import quoted
from harness.study.settings import Change, RawTable
from harness.study.study_file import InitSettings
from variants import registry
from variants.base import AXES, ModelShape

CHECKPOINT_KEY = "init.from_checkpoint"
RUN_KEY = "init.from_run"
TRUST_REMEDY = "if you trust them, name their folder in study.variant_paths"
SHAPE_FIELDS = ("n_layer", "n_head", "n_embd", "vocab_size", "tie_embeddings", "bias")
MAX_REPORTED_TENSORS = 3  # per entry: tensors of the other layers have the same problem


@dataclass(frozen=True)
class Checkpoint:
    """A folder of weights."""

    folder: Path
    weights: Weights


@dataclass(frozen=True)
class SourceRun:
    """A run of the study itself, one per seed, from which the other runs start."""

    entry: PlannedEntry


Source = Checkpoint | SourceRun


def read(
    init: InitSettings,
    axes: Axes,
    baseline: VariantSelection,
    resolver: EntryResolver,
    folder: Path,
) -> Source | None:
    """Return the source that `[init]` names, or None if it is invalid, with problems in `axes`.

    A checkpoint's path is relative to `folder`.
    """
    if init.from_run is not None:
        return _read_run(init.from_run, axes, baseline, resolver)
    try:
        path = absolute(folder / str(init.from_checkpoint))
        return Checkpoint(path, load_weights(path, Trust(folders=axes.paths, remedy=TRUST_REMEDY)))
    except UserError as error:
        for problem in error.problems:
            axes.add_problem(CHECKPOINT_KEY, str(problem))
        return None


def _read_run(
    stated: RawTable, axes: Axes, baseline: VariantSelection, resolver: EntryResolver
) -> SourceRun | None:
    n_problems = len(axes.problems)
    for axis in stated.keys() - set(axes.names) - {"train"}:
        message = f"no such axis; {choices(axis, [*axes.names, 'train'])}"
        axes.add_problem(f"{RUN_KEY}.{quoted(axis)}", message)
    entry = dict(baseline)
    for axis in axes.names:
        if axis in stated:
            choice = axes.choose(axis, stated[axis], f"{RUN_KEY}.{quoted(axis)}")
            if choice is not None:
                entry[axis] = choice
    train = stated.get("train", {})
    if not isinstance(train, dict):
        example = "{ steps = 500 }"
        axes.add_problem(f"{RUN_KEY}.train", f"{train!r}: must be a table, e.g. {example}")
    if len(axes.problems) > n_problems or len(entry) < len(axes.names):
        return None
    more = {f"train.{key}": Change(train[key], f"{RUN_KEY}.train.{key}") for key in train}
    planned = resolver.resolve(entry, more=more)
    return None if planned is None else SourceRun(planned)


def unused_conversion_options(
    location: str, entries: Iterable[VariantSelection], paths: Sequence[Path]
) -> Iterator[Problem]:
    """Yield options that control the conversion of a checkpoint, for a study without `[init]`."""
    chosen = {}
    for entry in entries:
        for axis, choice in entry.items():
            if axis in AXES:
                chosen[axis, choice.label] = choice
    for (axis, label), choice in chosen.items():
        for field in dataclasses.fields(registry.load(axis, choice.name, paths).Options):
            if field.metadata.get("conversion") and choice.options[field.name] != field.default:
                yield Problem(
                    f"{location}: axes.{axis}",
                    f"{label}: `{field.name}` controls how a checkpoint is converted, and the "
                    "study has no [init]",
                )


def incompatible_tensors(
    location: str,
    source: Source,
    source_shape: ModelShape | None,
    entries: Iterable[tuple[VariantSelection, ModelShape]],
    variant_paths: Sequence[str],
) -> Iterator[Problem]:
    """Yield the tensors that an entry's model cannot load from the source; compares shapes only.

    `source_shape` is the shape of the source's model, if it is a run.
    """
    distinct = {
        (entry["positional"].label, entry["attention"].label, shape): entry
        for entry, shape in entries
    }
    if isinstance(source, Checkpoint):
        key = f"{location}: {CHECKPOINT_KEY}"
        source_shape = source.weights.shape
        name = str(source.folder)
    else:
        key = f"{location}: {RUN_KEY}"
        name = "the source run"
    assert source_shape is not None
    mismatches: list[Problem] = []
    for shape, entry in {shape: entry for (*_, shape), entry in distinct.items()}.items():
        levels = [c.label for axis, c in entry.items() if axis not in AXES]
        here = f"here ({'-'.join(levels)})" if levels else "here"
        mismatches += _shape_mismatches(key, name, source_shape, shape, here)
    if mismatches:
        yield from mismatches
        return
    if isinstance(source, Checkpoint):
        sizes = {name: tensor.shape for name, tensor in source.weights.tensors.items()}
    else:
        model = ModelBuilder(source_shape, source.entry.choices, variant_paths).model()
        sizes = {name: parameter.shape for name, parameter in model.named_parameters()}
    tensors = {name: _meta_tensor("", size) for name, size in sizes.items()}
    for (*labels, shape), entry in distinct.items():
        labels += [c.label for axis, c in entry.items() if axis not in AXES]
        model = ModelBuilder(shape, entry, variant_paths).model()
        try:
            list(initial_tensors(model, _meta_tensor, tensors))
        except IncompatibleWeightsError as error:
            messages = error.problems[:MAX_REPORTED_TENSORS]
            n_more = len(error.problems) - len(messages)
            if n_more:
                messages.append(f"and {n_more} more")
            for message in messages:
                yield Problem(key, f"{'-'.join(labels)}: {message}")


def _shape_mismatches(
    key: str, name: str, source_shape: ModelShape, shape: ModelShape, here: str
) -> Iterator[Problem]:
    for field in SHAPE_FIELDS:
        there = getattr(source_shape, field)
        value = getattr(shape, field)
        if there != value:
            yield Problem(key, f"{field} = {there} in {name}, {value} {here}")


def _meta_tensor(_name: str, size: Size) -> Tensor:
    return torch.empty(size, device="meta")
