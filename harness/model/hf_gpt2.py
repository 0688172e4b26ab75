"""The published layout of GPT-2 (Hugging Face's `GPT2LMHeadModel`): read safely, check, convert.

It differs from this project's layout in two ways. Its linear layers are `Conv1D`s, whose weights
are (in, out) where those of `nn.Linear` are (out, in). Its position table is called `wpe`; here it
belongs to the positional variant.
"""

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from harness.errors import Problem, UserError
from variants.base import ModelShape

INDEX_FILE = "model.safetensors.index.json"
SAFETENSORS_FILE = "model.safetensors"
PICKLE_FILE = "pytorch_model.bin"
TRANSPOSED = re.compile(r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
CAUSAL_MASKS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # saved by older versions
HEAD = "lm_head.weight"
EMBEDDING = "wte.weight"
POSITIONS = "positional.wpe.weight"
RENAMED = {"wpe.weight": POSITIONS}
HEAD_DIM = 64  # of every published GPT-2

Tensors = dict[str, Tensor]
Json = dict[str, object]


def read(source: Path) -> tuple[Tensors, Json]:
    """Return the weights of a published checkpoint under this project's names, and its config.

    `source` is a folder or a weights file in one. Tensors are memory-mapped or on the CPU, in the
    precision of the file. The config is empty if there is no config.json.

    Raises:
        UserError: there is no checkpoint, a shard is missing, a file is truncated or would run
            code, or the output projection is not the embedding.
    """
    published = {
        name.removeprefix("transformer."): tensor for name, tensor in _read_weights(source).items()
    }
    head = published.pop(HEAD, None)
    if head is not None and EMBEDDING in published and not torch.equal(head, published[EMBEDDING]):
        raise UserError(
            f"{source}: {HEAD} differs from {EMBEDDING}; in GPT-2 they are one (tied) matrix"
        )
    tensors = {
        RENAMED.get(name, name): _transpose(name, tensor)
        for name, tensor in published.items()
        if not CAUSAL_MASKS.fullmatch(name)
    }
    config = (source if source.is_dir() else source.parent) / "config.json"
    return tensors, _read_json(config) if config.exists() else {}


def write(tensors: Mapping[str, Tensor], shape: ModelShape) -> tuple[Tensors, Json]:
    """Return weights in the published layout, and the content of their config.json."""
    published_names = {name: published for published, name in RENAMED.items()}
    published = {}
    for name, tensor in tensors.items():
        published_name = published_names.get(name, name)
        published[f"transformer.{published_name}"] = _transpose(name, tensor).contiguous()
    config: Json = {
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
    return published, config


def shape_of(
    tensors: Mapping[str, Tensor], config: Mapping[str, object], source: Path
) -> ModelShape:
    """Return the shape of a model from its weights and config.

    Without a config, heads have 64 channels, as in every published GPT-2.

    Raises:
        UserError: the embeddings are missing, weights and config disagree, or the number of heads
            does not divide the width.
    """
    missing = [name for name in (EMBEDDING, POSITIONS) if name not in tensors]
    if missing:
        raise UserError(f"{source}: not a GPT-2 checkpoint: {', '.join(missing)} missing")
    vocab_size, n_embd = tensors[EMBEDDING].shape
    layers = {int(name.split(".")[1]) for name in tensors if re.match(r"h\.\d+\.", name)}
    shape = ModelShape(
        n_layer=max(layers, default=-1) + 1,
        n_head=int(str(config.get("n_head", max(1, n_embd // HEAD_DIM)))),
        n_embd=n_embd,
        seq_len=len(tensors[POSITIONS]),
        vocab_size=vocab_size,
    )
    expected = asdict(shape) | {"n_positions": shape.seq_len}
    problems = []
    for key in ("n_layer", "n_embd", "n_positions", "vocab_size"):
        if key in config and config[key] != expected[key]:
            message = f"{config[key]}, but the weights have {expected[key]}"
            problems.append(Problem(f"{source}: config.json: {key}", message))
    if shape.n_head < 1 or shape.n_embd % shape.n_head:
        message = f"{shape.n_head} does not divide n_embd = {shape.n_embd}"
        problems.append(Problem(f"{source}: config.json: n_head", message))
    if config.get("activation_function", "gelu_new") not in ("gelu_new", "gelu_pytorch_tanh"):
        message = f"'{config['activation_function']}': must be gelu_new, as in GPT-2"
        problems.append(Problem(f"{source}: config.json: activation_function", message))
    if problems:
        raise UserError(problems)
    return shape


def incompatible_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, torch.Size], source: Path
) -> list[Problem]:
    """Return every tensor that is missing, unexpected or of another shape than expected."""
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
    return problems


def read_weights_file(file: Path) -> Tensors:
    """Return the tensors of one weights file by name, without running code that it may contain.

    Raises:
        UserError: it is truncated, is not a weights file, or would run code.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        message = "refused: it holds more than weights, and loading it could run code"
        raise UserError(f"{file}: {message}") from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise UserError(f"{file}: truncated or not a weights file: {error}") from error
    if not isinstance(tensors, dict) or not all(
        isinstance(value, Tensor) for value in tensors.values()
    ):
        raise UserError(f"{file}: not a weights file: must map names to tensors")
    return tensors


def _read_weights(source: Path) -> Tensors:
    """Return the tensors of a folder, of an index of shards, or of a single file."""
    if source.is_dir():
        candidates = [source / name for name in (INDEX_FILE, SAFETENSORS_FILE, PICKLE_FILE)]
        existing = [file for file in candidates if file.exists()]
        if not existing:
            names = f"{SAFETENSORS_FILE}, {INDEX_FILE} or {PICKLE_FILE}"
            raise UserError(f"{source}: not a checkpoint: must hold {names}")
        source = existing[0]
    if not source.is_file():
        raise UserError(f"{source}: no such file or folder")
    if not source.name.endswith(".index.json"):
        return read_weights_file(source)
    weight_map = _read_json(source).get("weight_map")
    if not isinstance(weight_map, dict):
        raise UserError(f"{source}: not an index of shards: has no weight_map")
    tensors: Tensors = {}
    for shard in sorted({source.parent / str(name) for name in weight_map.values()}):
        tensors |= _read_weights(shard)
    return tensors


def _transpose(name: str, tensor: Tensor) -> Tensor:
    return tensor.t() if TRANSPOSED.fullmatch(name) and tensor.dim() == 2 else tensor


def _read_json(path: Path) -> Json:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: unreadable: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: must hold a JSON object")
    return value
