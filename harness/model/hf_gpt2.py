"""The published layout of GPT-2 (Hugging Face's `GPT2LMHeadModel`): read safely, check, convert.

It differs from this project's layout in two ways. Its linear layers are `Conv1D`s, whose weights
are (in, out) where those of `nn.Linear` are (out, in). Its position table is called `wpe`; here it
belongs to the positional variant.
"""

import json
import pickle
import re
from collections.abc import Mapping
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
BIASED = re.compile(r"(h\.\d+\.(ln_1|ln_2|attn\.c_\w+|mlp\.c_\w+)|ln_f)\.weight")
CAUSAL_MASKS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # saved by older versions
HEAD = "lm_head.weight"
TIED = "tie_word_embeddings"  # a field of config.json
EMBEDDING = "wte.weight"
POSITIONS = "positional.wpe.weight"
RENAMED = {"wpe.weight": POSITIONS}
HEAD_DIM = 64  # of every published GPT-2, which have these widths
PUBLISHED_WIDTHS = (768, 1024, 1280, 1600)

# Fields of config.json that change the computation, and their values in GPT-2. Absent
# fields have these values.
COMPUTATION: Mapping[str, tuple[object, ...]] = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    TIED: (True, False),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "auto_map": (None,),
}
SHAPE_ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
SHAPE = ("n_layer", "n_head", "n_embd", "n_positions", "n_inner", "vocab_size")
# Fields that do not change the logits. Others are refused: they may be those of another model.
WITHOUT_EFFECT = frozenset(
    """
    architectures attn_pdrop bad_words_ids begin_suppress_tokens bos_token_id
    chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id diversity_penalty
    do_sample dtype early_stopping embd_pdrop encoder_no_repeat_ngram_size eos_token_id
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
    gradient_checkpointing id2label initializer_range is_decoder label2id length_penalty max_length
    min_length n_ctx no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences
    output_attentions output_hidden_states output_past output_scores pad_token_id
    predict_special_tokens prefix problem_type remove_invalid_values reorder_and_upcast_attn
    repetition_penalty resid_pdrop return_dict return_dict_in_generate sep_token_id
    summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
    suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder
    tokenizer_class top_k top_p torch_dtype torchscript transformers_version typical_p use_bfloat16
    use_cache
    """.split()
)

Tensors = dict[str, Tensor]
Json = dict[str, object]


def read(source: Path) -> tuple[Tensors, Json]:
    """Return the weights of a published checkpoint under this project's names, and its config.

    `source` is a folder or a weights file in one. Tensors are memory-mapped or on the CPU, in the
    precision of the file. The config is empty if there is no config.json.

    Raises:
        UserError: there is no checkpoint, a shard is missing, a file is truncated or would run
            code, or the output projection is not the embedding although the config ties them.
    """
    published = {
        name.removeprefix("transformer."): tensor for name, tensor in _read_weights(source).items()
    }
    path = (source if source.is_dir() else source.parent) / "config.json"
    config = _read_json(path) if path.exists() else {}
    head = published.pop(HEAD, None) if config.get(TIED, True) else None
    if head is not None and EMBEDDING in published and not torch.equal(head, published[EMBEDDING]):
        raise UserError(
            f"{source}: {HEAD} differs from {EMBEDDING}; in GPT-2 they are one (tied) matrix, "
            f"unless config.json states {TIED} = false"
        )
    tensors = {
        RENAMED.get(name, name): _transpose(name, tensor)
        for name, tensor in published.items()
        if not CAUSAL_MASKS.fullmatch(name)
    }
    return tensors, config


def write(tensors: Mapping[str, Tensor], shape: ModelShape) -> tuple[Tensors, Json]:
    """Return weights in the published layout, and the content of their config.json.

    The layout has no model without biases: biases of zero give the same logits.
    """
    published_names = {name: published for published, name in RENAMED.items()}
    published = {}
    for name, tensor in tensors.items():
        published_name = name if name == HEAD else f"transformer.{published_names.get(name, name)}"
        published[published_name] = _transpose(name, tensor).contiguous()
        if not shape.bias and BIASED.fullmatch(name):
            bias = published_name.removesuffix("weight") + "bias"
            published[bias] = torch.zeros(len(tensor), dtype=tensor.dtype)
    config: Json = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": "gelu_new",
        "n_layer": shape.n_layer,
        "n_head": shape.n_head,
        "n_embd": shape.n_embd,
        "n_inner": len(tensors["h.0.mlp.c_fc.weight"]),
        "n_positions": shape.seq_len,
        "n_ctx": shape.seq_len,
        "vocab_size": shape.vocab_size,
        "resid_pdrop": shape.dropout,
        "embd_pdrop": shape.dropout,
        "attn_pdrop": shape.dropout,
        "layer_norm_epsilon": 1e-5,
        TIED: shape.tie_embeddings,
    }
    return published, config


def shape_of(
    tensors: Mapping[str, Tensor], config: Mapping[str, object], source: Path
) -> ModelShape:
    """Return the shape of a model from its weights and config.

    Without a config, heads have 64 channels if the width is that of a published GPT-2.

    Raises:
        UserError: the embeddings are missing, weights and config disagree, the number of heads is
            unknown or does not divide the width, or the config is not one of GPT-2.
    """
    missing = [name for name in (EMBEDDING, POSITIONS) if name not in tensors]
    if missing:
        raise UserError(f"{source}: not a GPT-2 checkpoint: {', '.join(missing)} missing")
    vocab_size, n_embd = tensors[EMBEDDING].shape
    layers = {int(name.split(".")[1]) for name in tensors if re.match(r"h\.\d+\.", name)}
    actual = {
        "n_layer": max(layers, default=-1) + 1,
        "n_embd": n_embd,
        "n_positions": len(tensors[POSITIONS]),
        "vocab_size": vocab_size,
    }
    stated, messages = _stated_shape(config)
    for key, value in actual.items():
        if key in stated and stated[key] != value:
            messages[key] = f"{stated[key]}, but the weights have {value}"
    if stated.get("n_inner", 4 * n_embd) != 4 * n_embd:
        messages["n_inner"] = f"{stated['n_inner']}: must be 4 n_embd = {4 * n_embd} or null"
    n_head = stated.get("n_head")
    if n_head is None and n_embd in PUBLISHED_WIDTHS and "n_head" not in messages:
        n_head = n_embd // HEAD_DIM
    if n_head is None:
        messages.setdefault("n_head", "missing; add it: the weights do not state it")
    elif n_embd % n_head:
        messages["n_head"] = f"{n_head} does not divide n_embd = {n_embd}"
    dtype = str(tensors[EMBEDDING].dtype).removeprefix("torch.")
    for key in ("dtype", "torch_dtype"):
        if config.get(key) not in (None, "auto", dtype):
            messages[key] = f"{config[key]}, but the weights are {dtype}"
    messages |= _other_computations(config)
    if messages:
        location = f"{source}: config.json"
        raise UserError(Problem(f"{location}: {key}", text) for key, text in messages.items())
    assert n_head is not None
    return ModelShape(
        n_layer=actual["n_layer"],
        n_head=n_head,
        n_embd=n_embd,
        seq_len=actual["n_positions"],
        vocab_size=vocab_size,
        tie_embeddings=bool(config.get(TIED, True)),
    )


def _stated_shape(config: Mapping[str, object]) -> tuple[dict[str, int], dict[str, str]]:
    """Return the sizes that a config states, under their GPT-2 names, and its invalid ones."""
    stated: dict[str, int] = {}
    messages = {}
    for key in (*SHAPE, *SHAPE_ALIASES):
        value = config.get(key)
        if value is None:
            continue
        name = SHAPE_ALIASES.get(key, key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            messages[key] = f"{value!r}: must be a positive integer"
        elif stated.setdefault(name, value) != value:
            messages[key] = f"{value}, but {name} = {stated[name]}; they mean the same"
    return stated, messages


def _other_computations(config: Mapping[str, object]) -> dict[str, str]:
    """Return the fields of a config by which the weights compute something else than GPT-2."""
    messages = {}
    for key, value in config.items():
        if key in COMPUTATION:
            if value not in COMPUTATION[key]:
                allowed = " or ".join(map(json.dumps, COMPUTATION[key]))
                messages[key] = f"{json.dumps(value)}: must be {allowed}, as in GPT-2"
        elif key not in WITHOUT_EFFECT and key not in (*SHAPE, *SHAPE_ALIASES):
            if not key.startswith("_"):
                messages[key] = "not a field of GPT-2; remove it if it does not change the logits"
    return messages


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
        elif not tensors[name].is_floating_point():
            message = f"has type {tensors[name].dtype}, must be floating-point"
            problems.append(Problem(place, message))
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
