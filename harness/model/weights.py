"""Checkpoint folders: `model.safetensors`, and `checkpoint.json` that describes it."""

import hashlib
import os
import pickle
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.errors import Problem, StoreError, UserError
from harness.model.builder import ModelBuilder
from harness.model.gpt import GPT
from harness.results.files import (
    FormError,
    absolute,
    check_regular,
    parse_record,
    read_json,
    write_json,
)
from harness.results.records import CheckpointInfo, ResolvedModel, VariantChoice
from harness.results.run import is_in_imported_run
from variants import registry
from variants.base import AXES, ModelShape
from variants.errors import SHIPPED, VariantError

Tensors = dict[str, Tensor]  # by parameter name
SAFETENSORS_FILE = "model.safetensors"
DESCRIPTION_FILE = "checkpoint.json"
# Where a run keeps checkpoints, relative to its checkpoint folder and to its own folder.
KEPT = ("newest", "best", "checkpoint/newest", "checkpoint/best")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)  # of a model's tensors
TYPE_NAMES = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
GPT2 = {
    axis: VariantChoice(name=about.default, label=about.default, options={})
    for axis, about in AXES.items()
}


@dataclass(frozen=True)
class Weights:
    """The weights of a model, by parameter name.

    `origin` states where each tensor came from, `variant_paths` the folders of the user's own
    variants, `tokenizer` the one of the training text (None if unknown), `data_steps` how many
    steps of the data order the weights were trained on.
    """

    shape: ModelShape
    axes: Mapping[str, VariantChoice]
    tensors: Tensors
    origin: Mapping[str, str]
    variant_paths: Sequence[str] = ()
    tokenizer: str | None = None
    data_steps: int = 0

    @property
    def foreign_files(self) -> list[Path]:
        """Return the files of the user's own variants that `model` would import."""
        return foreign_files(self.axes, self.variant_paths)

    @property
    def parameters(self) -> int:
        """Return the number of parameters."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    def model(self) -> GPT:
        """Return the model with these weights, which it shares."""
        model = ModelBuilder(self.shape, self.axes, self.variant_paths).model()
        model.load_state_dict(self.tensors, assign=True)
        return model

    @property
    def sha256(self) -> str:
        """Return the hash of all names, types, shapes and values."""
        sha = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            flat = tensor.contiguous().flatten()  # a dimension of 1 may have any stride
            sha.update(flat.view(torch.uint8).numpy().tobytes())
        return sha.hexdigest()


def save_weights(weights: Weights, dest: Path) -> None:
    """Write a checkpoint folder; afterwards `dest` is complete or absent."""
    with atomic_folder(dest) as folder:
        write_weights(weights, folder)


@contextmanager
def atomic_folder(dest: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; rename it to `dest` on success, remove it on failure.

    Raises:
        UserError: `dest` exists already.
    """
    check_absent(dest)
    dest.parent.mkdir(parents=True, exist_ok=True)
    folder = dest.with_name(f".{dest.name}.{secrets.token_hex(8)}.tmp")
    try:
        folder.mkdir()
        yield folder
        os.rename(folder, dest)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_weights(weights: Weights, folder: Path) -> None:
    """Write the files of a checkpoint into an existing folder."""
    description = CheckpointInfo(
        shape=ResolvedModel(**asdict(weights.shape)),
        axes=dict(weights.axes),
        origin=dict(weights.origin),
        variant_paths=list(weights.variant_paths),
        tokenizer=weights.tokenizer,
        data_steps=weights.data_steps,
    )
    tensors = {name: tensor.contiguous() for name, tensor in weights.tensors.items()}
    write_files(folder, tensors, DESCRIPTION_FILE, description)


@dataclass(frozen=True)
class Trust:
    """Which code that is not this project's a checkpoint may run: that of `folders`, or any.

    `remedy` says how the user consents to more.
    """

    any: bool = False
    folders: Sequence[str | Path] = ()
    remedy: str = "give --trust-code if you trust them"

    def check(self, weights: Weights, source: Path) -> None:
        """Raise a `UserError` if the checkpoint would run code that is not trusted."""
        trusted = {absolute(Path(folder)) for folder in self.folders}
        files = [
            file for file in weights.foreign_files if absolute(file.parent.parent) not in trusted
        ]
        if files and not self.any:
            names = ", ".join(map(str, files))
            message = f"would run code that is not part of this program: {names}; {self.remedy}"
            raise UserError(f"{source}: {message}")


def foreign_files(axes: Mapping[str, VariantChoice], variant_paths: Sequence[str]) -> list[Path]:
    """Return the files of variants outside of this program, in the order of the axes.

    Raises:
        UserError: a path cannot be searched.
    """
    paths = [Path(path) for path in variant_paths]
    found = []
    try:
        for axis in AXES:
            file = registry.files(axis, paths).get(axes[axis].name) if axis in axes else None
            if file is not None and not absolute(file).is_relative_to(absolute(SHIPPED)):
                found.append(file)
    except (OSError, ValueError, RuntimeError) as error:  # e.g. a NUL, a loop of links
        raise UserError(f"variant_paths: cannot be searched: {error}") from error
    return found


def load_weights(source: Path, trust: Trust | None = None) -> Weights:
    """Read a checkpoint folder and compare its tensors with the model that it describes.

    The comparison imports the checkpoint's variants; files of the user's own only if `trust`
    allows it, by default none.

    Raises:
        UserError: it is not a checkpoint folder, its tensors do not fit its description, or it
            would run code that is not trusted.
    """
    weights = read_weights(source, trust or Trust())
    try:
        expected = _parameter_shapes(weights)
    except VariantError as error:
        folders = ", ".join(weights.variant_paths) or "the project's own folders"
        message = f"needs a variant that cannot be loaded: {error}; searched: {folders}"
        raise UserError(f"{source}: {message}") from error
    problems = incompatible_tensors(weights.tensors, expected, source)
    if problems:
        raise UserError(problems)
    return weights


def read_weights(source: Path, trust: Trust | None = None) -> Weights:
    """Read a checkpoint folder without importing a variant.

    With `trust`, a checkpoint that would run other code is refused before its tensors are read.

    Raises:
        UserError: it is not a checkpoint folder, has a value that is not finite, or is not trusted.
    """
    description = source / DESCRIPTION_FILE
    if not description.is_file():
        raise UserError([Problem(str(source), _why_no_checkpoint(source))])
    try:
        info = parse_record(read_json(description), CheckpointInfo)
    except StoreError as error:
        raise UserError(f"{description}: damaged: not a JSON object") from error
    except (FormError, ValueError) as error:
        raise UserError(f"{description}: invalid or missing field: {error}") from error
    weights = Weights(
        shape=ModelShape(**info.shape.model_dump()),
        axes=GPT2 | info.axes,
        tensors={},
        origin=info.origin,
        variant_paths=info.variant_paths,
        tokenizer=info.tokenizer,
        data_steps=info.data_steps,
    )
    if trust is not None:
        trust.check(weights, source)
    tensors = read_weights_file(source / SAFETENSORS_FILE)
    if problems := not_finite_tensors(tensors, source):
        raise UserError(problems)
    return replace(weights, tensors=tensors)


def _why_no_checkpoint(path: Path) -> str:
    """Return why a path without a description is no checkpoint folder, and where one is nearby."""
    nearby = (path.parent, *(path / name for name in KEPT))
    checkpoints = [str(folder) for folder in nearby if (folder / DESCRIPTION_FILE).is_file()]
    if checkpoints:
        return f"is not a checkpoint folder; did you mean {' or '.join(checkpoints)}?"
    if is_in_imported_run(path):
        return "a run that is imported from another trainer, which has no checkpoint here"
    if not path.exists():
        return "no such folder"
    if (path / "spec.json").is_file():
        return (
            "a run without a checkpoint; launch.keep_checkpoints in its study sets which are kept"
        )
    if (path / "config.json").is_file():
        return (
            f"a published checkpoint; import it first: "
            f"python -m harness checkpoint import {path} DEST"
        )
    return (
        f"not a checkpoint folder: has no {DESCRIPTION_FILE}; name a folder such as "
        f"results/STUDY/RUN_ID/checkpoint/best"
    )


def _parameter_shapes(weights: Weights) -> dict[str, torch.Size]:
    model = ModelBuilder(weights.shape, weights.axes, weights.variant_paths).model()
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def check_absent(dest: Path) -> None:
    """Raise a `UserError` if `dest` exists."""
    if dest.exists():
        raise UserError(f"{dest}: exists already and is not overwritten; name another folder")


def write_files(folder: Path, tensors: Tensors, name: str, description: object) -> None:
    """Write `model.safetensors` and the JSON file `name` into an existing folder."""
    save_file(tensors, folder / SAFETENSORS_FILE, metadata={"format": "pt"})
    with open(folder / SAFETENSORS_FILE, "rb") as file:
        os.fsync(file.fileno())
    write_json(folder / name, description)


def incompatible_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, torch.Size], source: Path
) -> list[Problem]:
    """Return every tensor that is missing, unexpected, or of another shape or kind of number."""
    problems = []
    for name in sorted(expected.keys() | tensors.keys()):
        place = f"{source}: {name}"
        if name not in tensors:
            problems.append(Problem(place, "missing"))
        elif name not in expected:
            problems.append(Problem(place, "no such tensor in the model"))
        elif tensors[name].shape != expected[name]:
            shapes = f"{tuple(tensors[name].shape)}, the model's is {tuple(expected[name])}"
            problems.append(Problem(place, f"has shape {shapes}"))
        elif tensors[name].dtype not in DTYPES:
            message = f"has type {tensors[name].dtype}, must be floating-point: {TYPE_NAMES}"
            problems.append(Problem(place, message))
    return problems


def not_finite_tensors(tensors: Mapping[str, Tensor], source: Path) -> list[Problem]:
    """Return every tensor that holds NaN or infinity, with the first such element."""
    problems = []
    for name, tensor in sorted(tensors.items()):
        if tensor.dtype not in DTYPES:  # integers are finite
            continue
        finite = tensor.isfinite()
        if not finite.all():
            first = torch.nonzero(~finite)[0].tolist()
            n_wrong = tensor.numel() - int(finite.sum())
            problems.append(
                Problem(
                    f"{source}: {name}",
                    f"{n_wrong} of {tensor.numel()} values are NaN or infinite, the first is "
                    f"{tensor[tuple(first)].item()} at {first}; the training diverged, or the file "
                    "is damaged: name another checkpoint",
                )
            )
    return problems


def read_weights_file(file: Path) -> Tensors:
    """Return the tensors of one weights file by name, without running code that it may contain.

    Raises:
        UserError: it is truncated, is not a weights file, or would run code.
    """
    try:
        check_regular(file)
        if file.suffix == ".safetensors":
            return load_file(file)
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        message = "refused: it holds more than weights, and loading it could run code"
        raise UserError(f"{file}: {message}") from error
    except Exception as error:  # of any type: PyTorch's unpickler trusts that bytes are a pickle
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{file}: truncated or not a weights file: {reason}") from error
    if not isinstance(tensors, dict) or not all(
        isinstance(value, Tensor) for value in tensors.values()
    ):
        raise UserError(f"{file}: not a weights file: must map names to tensors")
    return tensors
