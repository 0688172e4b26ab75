"""The harness's own folder of weights: `model.safetensors` under our names, and `checkpoint.json` that describes it."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from harness.checkpoint import published
from harness.checkpoint.published import Tensors
from harness.errors import UserError, choices
from harness.spec import Choice
from harness.store import SCHEMA_VERSION, StoreError, read_json
from harness.worker.build import Parts
from variants.api import AXES, Shape

DESCRIPTION = "checkpoint.json"
HUB = {name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")}
GPT2 = {axis: Choice(use=about.default, label=about.default, options={}) for axis, about in AXES.items()}


@dataclass(frozen=True)
class Weights:
    """A model's weights; `origin` tells where each tensor came from."""

    shape: Shape
    axes: Mapping[str, Choice]
    tensors: Tensors
    origin: Mapping[str, str]

    @property
    def parameters(self) -> int:
        """Return the number of parameters."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    @property
    def sha256(self) -> str:
        """Return the hash of all names, types, shapes and values."""
        sha = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            sha.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        return sha.hexdigest()


def import_published(source: str, dest: Path) -> Weights:
    """Read a published checkpoint (a folder, a file, or a name on the hub), check all of it, and save it as ours.

    Raises:
        UserError: it is none, is not whole, or does not fit the model; nothing is left half-written.
    """
    _must_be_new(dest)
    path = Path(source)
    if not path.exists() and source in HUB:
        path = _download(source)
    elif not path.exists():
        raise UserError(f"{source}: no such file or folder, and no name on the hub; {choices(source, HUB)}")
    tensors, config = published.read(path)
    shape = published.shape_of(tensors, config, path)
    problems = published.misfits(tensors, _expected(shape, GPT2), path)
    if problems:
        raise UserError(problems)
    weights = Weights(shape, GPT2, tensors, dict.fromkeys(tensors, f"loaded from {source}"))
    save(weights, dest)
    return weights


def export_published(source: Path, dest: Path) -> None:
    """Write our weights as the folder that `transformers.GPT2LMHeadModel.from_pretrained` loads.

    Raises:
        UserError: `source` is none of ours, or has variants that the published GPT-2 has not.
    """
    weights = load(source)
    others = [f"{axis} = {choice.use}" for axis, choice in weights.axes.items() if not _is_gpt2s(axis, choice)]
    if others:
        raise UserError(f"{source}: the published layout has no place for {', '.join(others)}")
    tensors, config = published.write(weights.tensors, weights.shape)
    _write_folder(dest, tensors, "config.json", config)


def save(weights: Weights, dest: Path) -> None:
    """Write a folder of our own, beside and then renamed, so that `dest` is whole or absent."""
    about = {
        "schema_version": SCHEMA_VERSION,
        "shape": asdict(weights.shape),
        "axes": {axis: choice.model_dump() for axis, choice in weights.axes.items()},
        "origin": dict(weights.origin),
    }
    _write_folder(dest, {name: tensor.contiguous() for name, tensor in weights.tensors.items()}, DESCRIPTION, about)


def load(source: Path) -> Weights:
    """Read a folder of our own.

    Raises:
        UserError: it is none, or its tensors are not those of the model that it describes.
    """
    try:
        about = read_json(source / DESCRIPTION)
        shape = Shape(**about["shape"])
        axes = {axis: Choice.model_validate(choice) for axis, choice in about["axes"].items()}
        origin = about["origin"]
    except (StoreError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source}: no checkpoint of this harness: {error}") from error
    tensors = published.load_weights(source / published.SAFE)
    problems = published.misfits(tensors, _expected(shape, axes), source)
    if problems:
        raise UserError(problems)
    return Weights(shape, axes, tensors, origin)


def _expected(shape: Shape, axes: Mapping[str, Choice]) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in Parts(shape, axes, []).model().named_parameters()}


def _is_gpt2s(axis: str, choice: Choice) -> bool:
    return axis == "parallelism" or choice.use == AXES[axis].default  # how it was trained leaves no trace in weights


def _must_be_new(dest: Path) -> None:
    if dest.exists():
        raise UserError(f"{dest}: exists already; nothing is overwritten, name another folder")


def _write_folder(dest: Path, tensors: Tensors, description: str, about: dict[str, Any]) -> None:
    _must_be_new(dest)
    dest.parent.mkdir(parents=True, exist_ok=True)
    beside = dest.with_name(f".{dest.name}.{os.getpid()}.tmp")
    try:
        beside.mkdir()
        save_file(tensors, beside / published.SAFE, metadata={"format": "pt"})
        (beside / description).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        os.rename(beside, dest)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _download(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(f"{name}: to fetch it from the hub, first: pip install 'ablations[hub]'") from error
    try:
        return Path(snapshot_download(HUB[name], allow_patterns=["config.json", "model.safetensors"]))
    except Exception as error:  # the hub's client has errors of many kinds
        raise UserError(f"{name}: cannot be fetched from {HUB[name]}: {type(error).__name__}: {error}") from error
