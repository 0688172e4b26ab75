"""Checkpoint folders: `model.safetensors`, and `checkpoint.json` that describes it."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import save_file

from harness.errors import StoreError, UserError, choices
from harness.model import hf_gpt2
from harness.model.builder import ModelBuilder
from harness.model.hf_gpt2 import SAFETENSORS_FILE, Tensors
from harness.results.files import FormError, parse_record, read_json, write_json
from harness.results.records import CheckpointInfo, ResolvedModel, VariantChoice
from variants import registry
from variants.base import AXES, ModelShape, is_part
from variants.errors import VariantError

DESCRIPTION_FILE = "checkpoint.json"
HUB = {
    name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
}
GPT2_VOCAB_SIZE = 50_257  # of its tokenizer
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


def import_gpt2(source: str, dest: Path) -> Weights:
    """Read and check a published GPT-2 (a folder, a file or a name on the hub); save it in `dest`.

    Raises:
        UserError: it is not a checkpoint, is incomplete, or does not fit GPT-2. `dest` is not
            created then.
    """
    _check_absent(dest)
    path = Path(source)
    if not path.exists():
        if source not in HUB:
            message = "no such file or folder, and not a name on the hub"
            raise UserError(f"{source}: {message}; {choices(source, HUB)}")
        path = _download(source)
    tensors, config = hf_gpt2.read(path)
    shape = hf_gpt2.shape_of(tensors, config, path)
    problems = hf_gpt2.incompatible_tensors(tensors, _parameter_shapes(shape, GPT2, ()), path)
    if problems:
        raise UserError(problems)
    weights = Weights(
        shape=shape,
        axes=GPT2,
        tensors=tensors,
        origin=dict.fromkeys(tensors, f"loaded from {source}"),
        tokenizer="gpt2" if shape.vocab_size == GPT2_VOCAB_SIZE else None,
    )
    save_weights(weights, dest)
    return weights


def export_gpt2(source: Path, dest: Path) -> None:
    """Write a checkpoint as a folder that `transformers.GPT2LMHeadModel.from_pretrained` loads.

    Raises:
        UserError: `source` is not a checkpoint folder, or is not a GPT-2: it has other variants or
            options.
    """
    weights = load_weights(source)
    others = list(_differences_from_gpt2(weights))
    if others:
        raise UserError(f"{source}: the published layout does not support {', '.join(others)}")
    tensors, config = hf_gpt2.write(weights.tensors, weights.shape)
    with atomic_folder(dest) as folder:
        _write_files(folder, tensors, "config.json", config)


def _differences_from_gpt2(weights: Weights) -> Iterator[str]:
    """Yield the variants and options by which a model computes something else than GPT-2."""
    paths = [Path(path) for path in weights.variant_paths]
    for axis, choice in weights.axes.items():
        if not is_part(axis):
            continue
        if choice.name != AXES[axis].default:
            yield f"{axis} = {choice.name}"
            continue
        if registry.files(axis, paths)[choice.name] != registry.files(axis)[choice.name]:
            yield f"{axis} = {choice.name}, a variant of your own with this name"
        for field in fields(registry.load(axis, choice.name, paths).Options):
            value = choice.options.get(field.name, field.default)
            is_stated_in_config = (axis, field.name) == ("mlp", "width")  # as n_inner
            if value != field.default and not is_stated_in_config:
                yield f"{axis} = {choice.name} with {field.name} = {value}"


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
    _check_absent(dest)
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
    _write_files(folder, tensors, DESCRIPTION_FILE, description)


def load_weights(source: Path) -> Weights:
    """Read a checkpoint folder.

    Raises:
        UserError: it is not a checkpoint folder, or its tensors do not fit its description.
    """
    description = source / DESCRIPTION_FILE
    try:
        info = parse_record(read_json(description), CheckpointInfo)
    except StoreError as error:
        message = (
            f"not a checkpoint folder: {DESCRIPTION_FILE} is missing or unreadable; name a folder "
            f"such as results/STUDY/RUN_ID/checkpoint/best"
        )
        raise UserError(f"{source}: {message}") from error
    except (FormError, ValueError) as error:
        raise UserError(f"{description}: invalid or missing field: {error}") from error
    shape = ModelShape(**info.shape.model_dump())
    axes = GPT2 | info.axes
    try:
        expected = _parameter_shapes(shape, axes, info.variant_paths)
    except (KeyError, VariantError) as error:
        folders = ", ".join(info.variant_paths) or "the project's own folders"
        message = f"needs a variant that cannot be loaded: {error}; searched: {folders}"
        raise UserError(f"{source}: {message}") from error
    tensors = hf_gpt2.read_weights_file(source / SAFETENSORS_FILE)
    problems = hf_gpt2.incompatible_tensors(tensors, expected, source)
    if problems:
        raise UserError(problems)
    return Weights(
        shape=shape,
        axes=axes,
        tensors=tensors,
        origin=info.origin,
        variant_paths=info.variant_paths,
        tokenizer=info.tokenizer,
        data_steps=info.data_steps,
    )


def _parameter_shapes(
    shape: ModelShape, axes: Mapping[str, VariantChoice], variant_paths: Sequence[str]
) -> dict[str, torch.Size]:
    model = ModelBuilder(shape, axes, variant_paths).model()
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def _check_absent(dest: Path) -> None:
    if dest.exists():
        raise UserError(f"{dest}: exists already and is not overwritten; name another folder")


def _write_files(folder: Path, tensors: Tensors, name: str, description: object) -> None:
    save_file(tensors, folder / SAFETENSORS_FILE, metadata={"format": "pt"})
    with open(folder / SAFETENSORS_FILE, "rb") as file:
        os.fsync(file.fileno())
    write_json(folder / name, description)


def _download(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        message = "downloading from the hub needs: pip install 'ablations[hub]'"
        raise UserError(f"{name}: {message}") from error
    try:
        return Path(snapshot_download(HUB[name], allow_patterns=["config.json", SAFETENSORS_FILE]))
    except Exception as error:  # the hub's client raises errors of many types
        message = f"cannot be fetched from {HUB[name]}: {type(error).__name__}: {error}"
        raise UserError(f"{name}: {message}") from error
