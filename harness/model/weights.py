"""The harness's own folder of weights: `model.safetensors` under our names, and `checkpoint.json` that describes it."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from harness.errors import UserError, choices
from harness.model import hf_gpt2 as published
from harness.model.builder import ModelBuilder
from harness.model.hf_gpt2 import Tensors
from harness.results.records import VariantChoice
from harness.results.store import SCHEMA_VERSION, StoreError, read_json, write_json
from variants import registry
from variants.base import AXES, ModelShape

DESCRIPTION = "checkpoint.json"
HUB = {
    name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
}
GPT2_TOKENS = 50_257  # of its tokenizer
GPT2 = {
    axis: VariantChoice(name=about.default, label=about.default, options={})
    for axis, about in AXES.items()
}


@dataclass(frozen=True)
class Weights:
    """A model's weights; `origin` tells where each tensor came from, `variant_paths` where the user's variants lie.

    `tokenizer` is the one of the text that they were trained on, None where that is not known.
    """

    shape: ModelShape
    axes: Mapping[str, VariantChoice]
    tensors: Tensors
    origin: Mapping[str, str]
    variant_paths: Sequence[str] = ()
    tokenizer: str | None = None

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
        raise UserError(
            f"{source}: no such file or folder, and no name on the hub; {choices(source, HUB)}"
        )
    tensors, config = published.read(path)
    shape = published.shape_of(tensors, config, path)
    problems = published.incompatible_tensors(tensors, _expected(shape, GPT2, ()), path)
    if problems:
        raise UserError(problems)
    tokenizer = "gpt2" if shape.vocab_size == GPT2_TOKENS else None
    weights = Weights(
        shape, GPT2, tensors, dict.fromkeys(tensors, f"loaded from {source}"), tokenizer=tokenizer
    )
    save(weights, dest)
    return weights


def export_published(source: Path, dest: Path) -> None:
    """Write our weights as the folder that `transformers.GPT2LMHeadModel.from_pretrained` loads.

    Raises:
        UserError: `source` is none of ours, or has variants that the published GPT-2 has not.
    """
    weights = load(source)
    others = [
        f"{axis} = {choice.name}"
        for axis, choice in weights.axes.items()
        if not _is_gpt2s(axis, choice)
    ]
    if others:
        raise UserError(f"{source}: the published layout has no place for {', '.join(others)}")
    tensors, config = published.write(weights.tensors, weights.shape)
    with beside(dest) as folder:
        _write_files(folder, tensors, "config.json", config)


def save(weights: Weights, dest: Path) -> None:
    """Write a folder of our own; `dest` is whole or absent."""
    with beside(dest) as folder:
        write(weights, folder)


@contextmanager
def beside(dest: Path) -> Iterator[Path]:
    """Give an empty folder beside `dest` to fill, and rename it if the body ends well; else nothing of it is left.

    Raises:
        UserError: `dest` exists already.
    """
    _must_be_new(dest)
    dest.parent.mkdir(parents=True, exist_ok=True)
    folder = dest.with_name(f".{dest.name}.{os.getpid()}.tmp")
    try:
        folder.mkdir()
        yield folder
        os.rename(folder, dest)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write(weights: Weights, folder: Path) -> None:
    """Write the files of a folder of our own into one that is there."""
    about = {
        "schema_version": SCHEMA_VERSION,
        "shape": asdict(weights.shape),
        "axes": {axis: choice.model_dump() for axis, choice in weights.axes.items()},
        "origin": dict(weights.origin),
        "variant_paths": list(weights.variant_paths),
        "tokenizer": weights.tokenizer,
    }
    _write_files(
        folder,
        {name: tensor.contiguous() for name, tensor in weights.tensors.items()},
        DESCRIPTION,
        about,
    )


def load(source: Path) -> Weights:
    """Read a folder of our own.

    Raises:
        UserError: it is none, or its tensors are not those of the model that it describes.
    """
    try:
        about = read_json(source / DESCRIPTION)
        shape = ModelShape(**about["shape"])
        axes = GPT2 | {
            axis: VariantChoice.model_validate(choice) for axis, choice in about["axes"].items()
        }
        origin, variant_paths, tokenizer = (
            about["origin"],
            about["variant_paths"],
            about["tokenizer"],
        )
    except StoreError as error:
        raise UserError(
            f"{source}: no checkpoint of this harness: {DESCRIPTION} is missing or unreadable"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{source / DESCRIPTION}: lacks or mistakes {error}; was it written by hand?"
        ) from error
    try:
        expected = _expected(shape, axes, variant_paths)
    except (KeyError, registry.VariantError) as error:
        where = ", ".join(variant_paths) or "the project's own folders"
        raise UserError(
            f"{source}: made with a variant that is not there now: {error}, looked for in {where}"
        ) from error
    tensors = published.load_weights(source / published.SAFE)
    problems = published.incompatible_tensors(tensors, expected, source)
    if problems:
        raise UserError(problems)
    return Weights(shape, axes, tensors, origin, variant_paths, tokenizer)


def _expected(
    shape: ModelShape, axes: Mapping[str, VariantChoice], variant_paths: Sequence[str]
) -> dict[str, torch.Size]:
    return {
        name: parameter.shape
        for name, parameter in ModelBuilder(shape, axes, variant_paths).model().named_parameters()
    }


def _is_gpt2s(axis: str, choice: VariantChoice) -> bool:
    return (
        axis == "parallelism" or choice.name == AXES[axis].default
    )  # how it was trained leaves no trace in weights


def _must_be_new(dest: Path) -> None:
    if dest.exists():
        raise UserError(f"{dest}: exists already; nothing is overwritten, name another folder")


def _write_files(folder: Path, tensors: Tensors, description: str, about: dict[str, Any]) -> None:
    save_file(tensors, folder / published.SAFE, metadata={"format": "pt"})
    with open(folder / published.SAFE, "rb") as file:
        os.fsync(file.fileno())
    write_json(folder / description, about)


def _download(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(
            f"{name}: to fetch it from the hub, first: pip install 'ablations[hub]'"
        ) from error
    try:
        return Path(
            snapshot_download(HUB[name], allow_patterns=["config.json", "model.safetensors"])
        )
    except Exception as error:  # the hub's client has errors of many kinds
        raise UserError(
            f"{name}: cannot be fetched from {HUB[name]}: {type(error).__name__}: {error}"
        ) from error
