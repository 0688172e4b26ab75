"""The published layout of GPT-2 (Hugging Face's `GPT2LMHeadModel`): check and convert.

It differs from this project's layout in two ways. Its linear layers are `Conv1D`s, whose weights
are (in, out) where those of `nn.Linear` are (out, in). Its position table is called `wpe`; here it
belongs to the positional variant.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from harness.errors import Problem, UserError
from harness.model.builder import ModelBuilder
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
from harness.published.unsupported import Expressed, unsupported_variants
from harness.results.records import VariantChoice
from harness.results.records.settings import MAX_WIDTH
from variants.base import ModelShape

TRANSPOSED = re.compile(r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
BIASED = re.compile(r"(h\.\d+\.(ln_1|ln_2|attn\.c_\w+|mlp\.c_\w+)|ln_f)\.weight")
CAUSAL_MASKS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # saved by older versions
HEAD = "lm_head.weight"
HIDDEN = "h.0.mlp.c_fc.weight"
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
# Fields that do not change the logits, besides those of every layout.
WITHOUT_EFFECT = tuple(
    """
    attn_pdrop embd_pdrop n_ctx predict_special_tokens reorder_and_upcast_attn resid_pdrop
    summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
    """.split()
)


# The variants and options of GPT-2; the width is stated as n_inner.
EXPRESSED: Expressed = {
    "positional": {"learned": ()},
    "attention": {"mha": ()},
    "norm": {"layernorm": ()},
    "mlp": {"gelu": ("width",)},
}


def unsupported(weights: Weights) -> list[str]:
    """Return why a model cannot be exported, an empty list if it can."""
    return list(unsupported_variants(weights, EXPRESSED, "GPT-2"))


def read(published: Tensors, config: Json, source: Path) -> Weights:
    """Return published tensors and their config, which may be empty, as weights of this project.

    Raises:
        UserError: the config is not that of a GPT-2, tensors are missing or do not fit, or the
            output projection is not the embedding although the config ties them.
    """
    tensors = _rename(published, config, source)
    shape = _shape(tensors, config, source)
    axes = GPT2 | {"mlp": _mlp(tensors, shape)}
    expected = {
        name: parameter.shape
        for name, parameter in ModelBuilder(shape, axes, ()).model().named_parameters()
    }
    if problems := incompatible_tensors(tensors, expected, source):
        raise UserError(problems)
    return Weights(shape=shape, axes=axes, tensors=tensors, origin={})


def write(weights: Weights) -> tuple[Tensors, Json]:
    """Return weights in the published layout, and the content of their config.json.

    The layout has no model without biases: biases of zero give the same logits.
    """
    shape = weights.shape
    published_names = {name: published for published, name in RENAMED.items()}
    published = {}
    for name, tensor in weights.tensors.items():
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
        "n_inner": len(weights.tensors[HIDDEN]),
        "n_positions": shape.seq_len,
        "n_ctx": shape.seq_len,
        "resid_pdrop": shape.dropout,
        "embd_pdrop": shape.dropout,
        "attn_pdrop": shape.dropout,
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        **common_fields(weights),
    }
    return published, config


def _rename(published: Tensors, config: Json, source: Path) -> Tensors:
    """Return tensors under this project's names, without causal masks and a tied projection."""
    published = {name.removeprefix("transformer."): tensor for name, tensor in published.items()}
    head = published.pop(HEAD, None) if config.get(TIED, True) else None
    if head is not None and EMBEDDING in published and not torch.equal(head, published[EMBEDDING]):
        raise UserError(
            f"{source}: {HEAD} differs from {EMBEDDING}; in GPT-2 they are one (tied) matrix, "
            f"unless config.json states {TIED} = false"
        )
    return {
        RENAMED.get(name, name): _transpose(name, tensor)
        for name, tensor in published.items()
        if not CAUSAL_MASKS.fullmatch(name)
    }


def _shape(tensors: Tensors, config: Json, source: Path) -> ModelShape:
    """Return the shape of a model from its weights and config.

    Without a config, heads have 64 channels if the width is that of a published GPT-2.

    Raises:
        UserError: the embeddings are missing, weights and config disagree, the number of heads is
            unknown or does not divide the width, or the config is not one of GPT-2.
    """
    missing = [name for name in (EMBEDDING, POSITIONS) if name not in tensors]
    if missing:
        raise UserError(f"{source}: not a GPT-2 checkpoint: {', '.join(missing)} missing")
    for name in (EMBEDDING, POSITIONS):
        if tensors[name].dim() != 2:
            message = f"has shape {tuple(tensors[name].shape)}, must be a matrix"
            raise UserError([Problem(f"{source}: {name}", message)])
    vocab_size, n_embd = tensors[EMBEDDING].shape
    layers = {int(name.split(".")[1]) for name in tensors if re.match(r"h\.\d+\.", name)}
    n_layer = max(layers, default=-1) + 1
    n_positions = len(tensors[POSITIONS])
    actual: dict[str, int | None] = {
        "n_layer": n_layer,
        "n_embd": n_embd,
        "n_positions": n_positions,
        "vocab_size": vocab_size,
        "n_inner": _mlp_width(tensors),
    }
    stated, messages = stated_sizes(config, SHAPE, SHAPE_ALIASES)
    for key, value in actual.items():
        if key in stated and value is not None and stated[key] != value:
            messages[key] = f"{stated[key]}, but the weights have {value}"
    width = actual["n_inner"]
    if "n_inner" in config and config["n_inner"] is None and width not in (None, 4 * n_embd):
        messages["n_inner"] = f"null means 4 n_embd = {4 * n_embd}, but the weights have {width}"
    if width is not None and width > MAX_WIDTH:
        messages["n_inner"] = f"{width}: allowed: at most {MAX_WIDTH}"
    n_head = stated.get("n_head")
    if n_head is None and n_embd in PUBLISHED_WIDTHS and "n_head" not in messages:
        n_head = n_embd // HEAD_DIM
    if n_head is None:
        messages.setdefault("n_head", "missing; add it: the weights do not state it")
    elif n_embd % n_head:
        messages["n_head"] = f"{n_head} does not divide n_embd = {n_embd}"
    messages |= other_precision(config, tensors[EMBEDDING].dtype)
    messages |= missing_head(config, HEAD in tensors)
    known = (*SHAPE, *SHAPE_ALIASES, *WITHOUT_EFFECT)
    messages |= other_computations(config, COMPUTATION, known, "GPT-2")
    raise_if_any(messages, source)
    assert n_head is not None
    return ModelShape(
        n_layer=n_layer,
        n_head=n_head,
        n_embd=n_embd,
        seq_len=n_positions,
        vocab_size=vocab_size,
        tie_embeddings=bool(config.get(TIED, True)),
    )


def _mlp_width(tensors: Tensors) -> int | None:
    """Return the width of the first hidden layer, None if it is missing or no matrix."""
    weight = tensors.get(HIDDEN)
    return len(weight) if weight is not None and weight.dim() == 2 else None


def _mlp(tensors: Tensors, shape: ModelShape) -> VariantChoice:
    """Return GPT-2's MLP with the width of the weights."""
    default = GPT2["mlp"]
    width = _mlp_width(tensors)
    if width in (None, 4 * shape.n_embd):
        return default
    return default.model_copy(update={"options": {"width": width}})


def _transpose(name: str, tensor: Tensor) -> Tensor:
    return tensor.t() if TRANSPOSED.fullmatch(name) and tensor.dim() == 2 else tensor
