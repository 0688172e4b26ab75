"""The published layout of GPT-2 (Hugging Face's `GPT2LMHeadModel`): found, read safely, checked, translated, written.

It differs from ours in two ways. Its linear layers are `Conv1D`s, which hold their weights as (in, out) where
`nn.Linear` has (out, in); and its position table is called `wpe` where ours belongs to the positional variant.
"""

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from harness.errors import Problem, UserError
from variants.base import ModelShape

INDEX, SAFE, PICKLED = "model.safetensors.index.json", "model.safetensors", "pytorch_model.bin"
TRANSPOSED = re.compile(r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
NOT_WEIGHTS = re.compile(
    r"h\.\d+\.attn\.(bias|masked_bias)"
)  # causal masks that older versions saved
RENAMED = {"wpe.weight": "positional.wpe.weight"}
HEAD, EMBEDDING = "lm_head.weight", "wte.weight"

Tensors = dict[str, Tensor]


def read(source: Path) -> tuple[Tensors, dict[str, Any]]:
    """Return the weights of a published checkpoint under our names, and its config.json (empty where it has none).

    `source` is a folder, or a weights file in one. Tensors are mapped or on the CPU, in the file's precision.

    Raises:
        UserError: no checkpoint there, a shard is missing, a file is truncated or wants to run code, or the output
            projection is not the embedding.
    """
    folder = source if source.is_dir() else source.parent
    tensors = _stripped(_raw(source))
    head = tensors.pop(HEAD, None)
    if head is not None and EMBEDDING in tensors and not torch.equal(head, tensors[EMBEDDING]):
        raise UserError(
            f"{source}: {HEAD} differs from {EMBEDDING}; in GPT-2 they are one (tied) matrix"
        )
    ours = {RENAMED.get(name, name): _transposed(name, tensor) for name, tensor in tensors.items()}
    config = folder / "config.json"
    return ours, _json(config) if config.exists() else {}


def write(tensors: Mapping[str, Tensor], shape: ModelShape) -> tuple[Tensors, dict[str, Any]]:
    """Return our weights in the published layout, and the config.json that goes with them."""
    names = {ours: published for published, ours in RENAMED.items()}
    theirs = {names.get(name, name): tensor for name, tensor in tensors.items()}
    theirs = {
        f"transformer.{name}": _transposed(name, tensor).contiguous()
        for name, tensor in theirs.items()
    }
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": "gelu_new",
        "n_layer": shape.n_layer,
        "n_head": shape.n_head,
        "n_embd": shape.n_embd,
        "n_positions": shape.seq_len,
        "n_ctx": shape.seq_len,
        "vocab_size": shape.vocab_size,
        "resid_pdrop": shape.dropout,
        "embd_pdrop": shape.dropout,
        "attn_pdrop": shape.dropout,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    }
    return theirs, config


def shape_of(tensors: Mapping[str, Tensor], config: Mapping[str, Any], source: Path) -> ModelShape:
    """Return the shape that weights and config.json tell; heads of 64 where there is no config, as in all of GPT-2.

    Raises:
        UserError: the embeddings are missing, the two contradict each other, or the heads do not divide the width.
    """
    missing = [name for name in (EMBEDDING, RENAMED["wpe.weight"]) if name not in tensors]
    if missing:
        raise UserError(f"{source}: no GPT-2 checkpoint: {', '.join(missing)} missing")
    vocab_size, n_embd = tensors[EMBEDDING].shape
    layers = {int(name.split(".")[1]) for name in tensors if re.match(r"h\.\d+\.", name)}
    shape = ModelShape(
        n_layer=max(layers, default=-1) + 1,
        n_head=int(config.get("n_head", max(1, n_embd // 64))),
        n_embd=n_embd,
        seq_len=len(tensors[RENAMED["wpe.weight"]]),
        vocab_size=vocab_size,
    )
    told = asdict(shape) | {"n_positions": shape.seq_len}
    wrong = [
        Problem(
            f"{source}: config.json: {key}", f"{config[key]}, but the weights are of {told[key]}"
        )
        for key in ("n_layer", "n_embd", "n_positions", "vocab_size")
        if key in config and config[key] != told[key]
    ]
    if shape.n_head < 1 or shape.n_embd % shape.n_head:
        wrong.append(
            Problem(
                f"{source}: config.json: n_head",
                f"{shape.n_head} does not divide n_embd = {shape.n_embd}",
            )
        )
    if config.get("activation_function", "gelu_new") not in ("gelu_new", "gelu_pytorch_tanh"):
        wrong.append(Problem(f"{source}: config.json: activation_function", "GPT-2's is gelu_new"))
    if wrong:
        raise UserError(wrong)
    return shape


def incompatible_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, torch.Size], source: Path
) -> list[Problem]:
    """Return what keeps weights from being those of a model: missing, extra and misshapen tensors, each by name."""
    problems = [
        Problem(f"{source}: {name}", "missing") for name in expected.keys() - tensors.keys()
    ]
    problems += [
        Problem(f"{source}: {name}", "no such tensor in the model")
        for name in tensors.keys() - expected.keys()
    ]
    problems += [
        Problem(
            f"{source}: {name}",
            f"has shape {tuple(tensors[name].shape)}, the model's is {tuple(expected[name])}",
        )
        for name in expected.keys() & tensors.keys()
        if tensors[name].shape != expected[name]
    ]
    return sorted(problems, key=str)


def _raw(source: Path) -> Tensors:
    if source.is_dir():
        found = next(
            (source / name for name in (INDEX, SAFE, PICKLED) if (source / name).exists()), None
        )
        if found is None:
            raise UserError(f"{source}: no checkpoint: must hold {SAFE}, {INDEX} or {PICKLED}")
        source = found
    if not source.is_file():
        raise UserError(f"{source}: no such file or folder")
    if source.name.endswith(".index.json"):
        weights = _json(source).get("weight_map")
        if not isinstance(weights, dict):
            raise UserError(f"{source}: no index of shards: has no weight_map")
        shards = sorted({source.parent / str(name) for name in weights.values()})
        return {name: tensor for shard in shards for name, tensor in _raw(shard).items()}
    return load_weights(source)


def load_weights(file: Path) -> Tensors:
    """Read one weights file, by name, without running any code that it may hold.

    Raises:
        UserError: it is truncated, holds something else, or would run code.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file}: refused: it holds more than weights, and loading it could run code"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise UserError(f"{file}: truncated or no weights file: {error}") from error
    if not isinstance(loaded, dict) or not all(
        isinstance(value, Tensor) for value in loaded.values()
    ):
        raise UserError(f"{file}: no weights file: must map names to tensors")
    return loaded


def _stripped(tensors: Tensors) -> Tensors:
    plain = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in plain.items() if not NOT_WEIGHTS.fullmatch(name)}


def _transposed(name: str, tensor: Tensor) -> Tensor:
    return tensor.t() if TRANSPOSED.fullmatch(name) and tensor.dim() == 2 else tensor


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: unreadable: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: must hold a JSON object")
    return value
