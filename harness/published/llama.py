"""The published layouts of Llama and Mistral: RoPE, RMSNorm, SwiGLU, no position table.

They differ from this project's layout in that q, k and v, and the two halves of SwiGLU, are
matrices of their own. Both rotate the pairs (i, i + R/2), and share key-value heads between
consecutive query heads, as here. Mistral has no biases, and its query at p sees the positions above
p - `sliding_window`: as many as `window` of `sliding_window` counts, its own included.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from harness.errors import Problem, UserError
from harness.model.builder import ModelBuilder, load_variants
from harness.model.weights import GPT2, Tensors, Weights, incompatible_tensors
from harness.published.config import (
    TIED,
    common_fields,
    missing_head,
    other_computations,
    other_precision,
    raise_if_any,
    stated_sizes,
)
from harness.published.files import Json
from harness.published.rope import rope_choice, rope_fields, rope_reasons
from harness.published.unsupported import Expressed, unsupported_variants
from harness.results.records import VariantChoice
from variants.attention._window import Window
from variants.attention.sliding_window import SlidingWindowOptions
from variants.base import ModelShape
from variants.norm.rmsnorm import EPSILON

Layout = Literal["llama", "mistral"]
FORMATS: Mapping[str, str] = {"llama": "Llama", "mistral": "Mistral"}
ATTENTION = {"mha": (), "gqa": ("n_kv_head", "kv_pooling"), "mqa": ("kv_pooling",)}
WINDOW = {"sliding_window": ("window", "layer_pattern", "dilation", "head_dilation")}
LLAMA: Expressed = {
    "positional": {"rope": ("theta", "scaling", "factor")},
    "attention": ATTENTION,
    "norm": {"rmsnorm": ()},
    "mlp": {"swiglu": ("width",)},
}
EXPRESSED: Mapping[str, Expressed] = {
    "llama": LLAMA,
    "mistral": {**LLAMA, "attention": {**ATTENTION, **WINDOW}},
}
# Modules under their names here: their published parts, whose rows are stacked here in this order.
OUTER = {"wte": ("model.embed_tokens",), "ln_f": ("model.norm",), "lm_head": ("lm_head",)}
LAYER = {
    "ln_1": ("input_layernorm",),
    "attn.c_attn": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.c_proj": ("self_attn.o_proj",),
    "ln_2": ("post_attention_layernorm",),
    "mlp.c_fc": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.c_proj": ("mlp.down_proj",),
}
FREQUENCIES = "rotary_emb.inv_freq"  # saved by older versions, computed here

SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "vocab_size",
    "head_dim",
    "sliding_window",
)
OPTIONAL = ("num_key_value_heads", "head_dim", "sliding_window")
# Fields that change the computation, and their values in models that this project can express.
COMPUTATION: Mapping[str, tuple[object, ...]] = {
    "model_type": tuple(FORMATS),
    "hidden_act": ("silu", "swish"),
    "rms_norm_eps": (EPSILON,),
    "attention_bias": (True, False),
    "mlp_bias": (True, False),
    "pretraining_tp": (1,),
    TIED: (True, False),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "auto_map": (None,),
}
OTHER = ("attention_dropout", "rope_theta", "rope_scaling", "rope_parameters")


def unsupported(weights: Weights, layout: Layout) -> list[str]:
    """Return why a model cannot be exported in a layout, an empty list if it can."""
    model = FORMATS[layout]
    reasons = list(unsupported_variants(weights, EXPRESSED[layout], model))
    if weights.shape.bias and layout == "mistral":
        reasons.append("bias = true: Mistral has no biases; train with [model] bias = false")
    reasons += rope_reasons(weights)
    windows = set(_windows(weights)) if layout == "mistral" else set()
    if len(windows) > 1 or any(window.dilation != 1 for window in windows):
        reasons.append("attention = sliding_window: Mistral has one undilated window in all layers")
    return reasons


def write(weights: Weights, layout: Layout) -> tuple[Tensors, Json]:
    """Return weights in a published layout, and the content of their config.json."""
    shape = weights.shape
    published = _split(weights.tensors, shape)
    config: Json = {
        "model_type": layout,
        "architectures": [f"{FORMATS[layout]}ForCausalLM"],
        "hidden_size": shape.n_embd,
        "intermediate_size": weights.tensors["h.0.mlp.c_proj.weight"].shape[1],
        "num_hidden_layers": shape.n_layer,
        "num_attention_heads": shape.n_head,
        "num_key_value_heads": _kv_width(weights.tensors, shape) // shape.head_dim,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.seq_len,
        "hidden_act": "silu",
        "rms_norm_eps": EPSILON,
        "attention_dropout": shape.dropout,
        **rope_fields(weights),
        **common_fields(weights),
    }
    if layout == "llama":
        config |= {"attention_bias": shape.bias, "mlp_bias": shape.bias, "pretraining_tp": 1}
    else:
        windows = list(_windows(weights))
        config["sliding_window"] = windows[0].width if windows else None
    return published, config


def read(published: Tensors, config: Json, source: Path) -> Weights:
    """Return published tensors and their config as weights of this project.

    Raises:
        UserError: the config is not one of a Llama or Mistral that this project can express, or
            tensors are missing or do not fit.
    """
    shape, axes = _architecture(config, source)
    published = {name: x for name, x in published.items() if not name.endswith(FREQUENCIES)}
    raise_if_any(_missing_layers(published, shape.n_layer), source)
    head = published.get("lm_head.weight")
    raise_if_any(missing_head(config, head is not None), source)
    if shape.tie_embeddings and head is not None:
        embedding = published.get("model.embed_tokens.weight")
        if embedding is None or not torch.equal(head, embedding):
            message = f"differs from the embedding, although config.json states {TIED} = true"
            raise UserError([Problem(f"{source}: lm_head.weight", message)])
        del published["lm_head.weight"]
    parameters = dict(ModelBuilder(shape, axes, ()).model().named_parameters())
    expected = {name: tensor.shape for name, tensor in _split(parameters, shape).items()}
    if problems := incompatible_tensors(published, expected, source):
        raise UserError(problems)
    tensors = {}
    for name in parameters:
        parts = [published[part] for part in _parts(name)]
        tensors[name] = torch.cat(parts) if len(parts) > 1 else parts[0]
    raise_if_any(other_precision(config, tensors["wte.weight"].dtype), source)
    return Weights(shape=shape, axes=axes, tensors=tensors, origin={})


def _missing_layers(published: Tensors, n_layer: int) -> dict[str, str]:
    """Return a message on the number of layers if the weights have fewer; to build them is slow."""
    layers = {name.split(".")[2] for name in published if name.startswith("model.layers.")}
    if n_layer <= len(layers):
        return {}
    return {"num_hidden_layers": f"{n_layer}, but the weights have {len(layers)} layers"}


def _parts(name: str) -> list[str]:
    """Return the published names of the parts of a parameter."""
    module, kind = name.rsplit(".", 1)
    if module in OUTER:
        return [f"{part}.{kind}" for part in OUTER[module]]
    _, layer, module = module.split(".", 2)
    return [f"model.layers.{layer}.{part}.{kind}" for part in LAYER[module]]


def _split(tensors: Mapping[str, Tensor], shape: ModelShape) -> Tensors:
    """Return tensors under their published names, each in memory of its own."""
    kv_width = _kv_width(tensors, shape)
    rows = {1: (-1,), 3: (shape.n_embd, kv_width, kv_width)}
    published = {}
    for name, tensor in tensors.items():
        names = _parts(name)
        sizes = rows.get(len(names), (len(tensor) // 2,) * 2)
        pieces = tensor.split(sizes) if len(names) > 1 else (tensor,)
        for part, piece in zip(names, pieces, strict=True):
            published[part] = piece.clone(memory_format=torch.contiguous_format)
    return published


def _kv_width(tensors: Mapping[str, Tensor], shape: ModelShape) -> int:
    return (len(tensors["h.0.attn.c_attn.weight"]) - shape.n_embd) // 2


def _windows(weights: Weights) -> Iterator[Window]:
    """Yield the window of each layer and head, nothing for full attention."""
    _, options = load_variants(weights.axes, weights.variant_paths)["attention"]
    if not isinstance(options, SlidingWindowOptions):
        return
    for layer in range(weights.shape.n_layer):
        yield from options.head_windows(layer, weights.shape.n_head)


def _architecture(config: Json, source: Path) -> tuple[ModelShape, dict[str, VariantChoice]]:
    """Return the shape and the variants that a config states.

    Raises:
        UserError: it does not state them, or others than those of this project.
    """
    sizes, messages = stated_sizes(config, SIZES, {})
    for key in SIZES:
        if key not in OPTIONAL and key not in sizes:
            messages.setdefault(key, "missing; add it: the weights do not state it")
    model = FORMATS[str(config["model_type"])]
    messages |= other_computations(config, COMPUTATION, (*SIZES, *OTHER), model)
    if config.get("rms_norm_eps") is None:
        messages["rms_norm_eps"] = f"missing; its default differs from {EPSILON}, the one of here"
    bias = bool(config.get("attention_bias", False))
    if bool(config.get("mlp_bias", False)) != bias:
        messages["mlp_bias"] = f"must be attention_bias = {str(bias).lower()}"
    rope, rope_messages = rope_choice(config, sizes.get("max_position_embeddings", 1))
    messages |= rope_messages
    n_embd = sizes.get("hidden_size", 1)
    n_head = sizes.get("num_attention_heads", 1)
    if n_embd % n_head:
        messages["num_attention_heads"] = f"{n_head} does not divide hidden_size = {n_embd}"
    elif sizes.get("head_dim", n_embd // n_head) != n_embd // n_head:
        expected = f"must be hidden_size / num_attention_heads = {n_embd // n_head}"
        messages["head_dim"] = f"{sizes['head_dim']}: {expected}"
    attention, attention_messages = _attention(config, sizes, n_head)
    messages |= attention_messages
    raise_if_any(messages, source)
    shape = ModelShape(
        n_layer=sizes["num_hidden_layers"],
        n_head=n_head,
        n_embd=n_embd,
        seq_len=sizes["max_position_embeddings"],
        vocab_size=sizes["vocab_size"],
        tie_embeddings=bool(config.get(TIED, False)),
        bias=bias,
    )
    axes = {
        "positional": rope,
        "attention": attention,
        "norm": _choice("rmsnorm"),
        "mlp": _choice("swiglu", width=sizes["intermediate_size"]),
    }
    return shape, {**GPT2, **axes}


def _attention(
    config: Json, sizes: Mapping[str, int], n_head: int
) -> tuple[VariantChoice, dict[str, str]]:
    """Return the attention that a config states, and the messages on its fields."""
    messages = {}
    n_kv_head = sizes.get("num_key_value_heads", n_head)
    if n_head % n_kv_head:
        reason = f"{n_kv_head} does not divide num_attention_heads = {n_head}"
        messages["num_key_value_heads"] = reason
    window = sizes.get("sliding_window")
    if config["model_type"] == "llama":
        if window is not None:
            messages["sliding_window"] = "not a field of Llama; its attention has no window"
        window = None
    else:  # the defaults of Mistral are those of its 7B model
        for key in ("num_key_value_heads", "sliding_window"):
            if key not in config:
                messages[key] = "missing; state it"
    if window is not None:
        if n_kv_head != n_head:
            reason = "here, a sliding window has as many key-value heads as query heads"
            messages["num_key_value_heads"] = f"{n_kv_head}: {reason}"
        return _choice("sliding_window", window=window), messages
    if n_kv_head == n_head:
        return _choice("mha"), messages
    if n_kv_head == 1:
        return _choice("mqa"), messages
    return _choice("gqa", n_kv_head=n_kv_head), messages


def _choice(name: str, **options: object) -> VariantChoice:
    return VariantChoice(name=name, label=name, options=options)
