"""A wrongly converted checkpoint still generates text, only worse; errors must come early."""

import dataclasses
import json
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from harness.cli.app import main
from harness.errors import UserError
from harness.model.builder import ModelBuilder
from harness.model.weights import (
    GPT2,
    Weights,
    load_weights,
    save_weights,
)
from harness.published import gpt2
from harness.published.convert import export_weights, import_weights
from harness.results.records import VariantChoice
from variants import registry
from variants.base import AXES, ModelShape, is_part

L, H, C, T, V = 2, 2, 16, 12, 31


def tensors(prefix="transformer."):
    """Return random weights in the published layout, with the causal masks of old files."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator) * 0.3

    result = {
        "wte.weight": normal(V, C),
        "wpe.weight": normal(T, C),
        "ln_f.weight": normal(C),
        "ln_f.bias": normal(C),
    }
    for layer in range(L):
        for name, shape in (
            ("ln_1.weight", (C,)),
            ("ln_1.bias", (C,)),
            ("ln_2.weight", (C,)),
            ("ln_2.bias", (C,)),
            ("attn.c_attn.weight", (C, 3 * C)),
            ("attn.c_attn.bias", (3 * C,)),
            ("attn.c_proj.weight", (C, C)),
            ("attn.c_proj.bias", (C,)),
            ("mlp.c_fc.weight", (C, 4 * C)),
            ("mlp.c_fc.bias", (4 * C,)),
            ("mlp.c_proj.weight", (4 * C, C)),
            ("mlp.c_proj.bias", (C,)),
        ):
            result[f"h.{layer}.{name}"] = normal(*shape)
        result[f"h.{layer}.attn.bias"] = torch.ones(1, 1, T, T).tril()
    return {prefix + name: tensor for name, tensor in result.items()}


CONFIG = {"n_layer": L, "n_head": H, "n_embd": C, "n_positions": T, "vocab_size": V}


def write(path, weights=None, config=CONFIG, how="safetensors"):
    path.mkdir()
    weights = tensors() if weights is None else weights
    if how == "safetensors":
        save_file(weights, path / "model.safetensors")
    elif how == "sharded":
        names = sorted(weights)
        halves = {
            "a.safetensors": names[: len(names) // 2],
            "b.safetensors": names[len(names) // 2 :],
        }
        for shard, part in halves.items():
            save_file({name: weights[name] for name in part}, path / shard)
        index = {"weight_map": {name: shard for shard, part in halves.items() for name in part}}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        torch.save(weights, path / "pytorch_model.bin")
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    return path


def logits(checkpoint, tokens):
    weights = load_weights(checkpoint)
    model = weights.model()
    return model.eval().logits(tokens)


def published_formula(w, tokens):
    """Return the logits as the authors' code computes them: x W + b, with W as (in, out)."""

    def norm(x, name):
        return F.layer_norm(x, (C,), w[f"{name}.weight"], w[f"{name}.bias"])

    def conv1d(x, name):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["wte.weight"][tokens] + w["wpe.weight"][: tokens.shape[1]]
    for layer in range(L):
        h = f"h.{layer}"
        q, k, v = (
            part.view(*part.shape[:2], H, C // H).transpose(1, 2)
            for part in conv1d(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn").chunk(3, -1)
        )
        scores = q @ k.transpose(-1, -2) / math.sqrt(C // H)
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).tril() == 0, -math.inf)
        y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + conv1d(y, f"{h}.attn.c_proj")
        wide = conv1d(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc")
        gelu = 0.5 * wide * (1 + torch.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
        x = x + conv1d(gelu, f"{h}.mlp.c_proj")
    return norm(x, "ln_f") @ w["wte.weight"].T


@pytest.mark.parametrize("how", ["safetensors", "sharded", "bin"])
@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_an_imported_model_computes_the_published_logits(tmp_path, how, prefix):
    weights = import_weights(
        str(write(tmp_path / "theirs", tensors(prefix), how=how)), tmp_path / "ours"
    )
    tokens = torch.randint(V, (2, T), generator=torch.Generator().manual_seed(1))
    expected = published_formula(tensors(""), tokens)
    assert (logits(tmp_path / "ours", tokens) - expected).abs().max() < 1e-5
    assert set(weights.origin.values()) == {f"loaded from {tmp_path / 'theirs'}"}


def test_export_restores_every_tensor_bit_for_bit(tmp_path):
    import_weights(str(write(tmp_path / "theirs")), tmp_path / "ours")
    export_weights(tmp_path / "ours", tmp_path / "back")
    back = load_file(tmp_path / "back/model.safetensors")
    expected = {
        name: tensor for name, tensor in tensors().items() if not name.endswith(".attn.bias")
    }
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in expected.items())
    config = json.loads((tmp_path / "back/config.json").read_text())
    assert CONFIG.items() <= config.items()


def test_transformers_agrees_and_loads_the_export(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**CONFIG | {"n_embd": 32, "n_head": 4})
    ).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    import_weights(str(tmp_path / "theirs"), tmp_path / "ours")
    tokens = torch.randint(V, (3, T))
    with torch.no_grad():
        assert (logits(tmp_path / "ours", tokens) - theirs(tokens).logits).abs().max() < 1e-5
    export_weights(tmp_path / "ours", tmp_path / "back")
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "back")
    for name, parameter in theirs.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter), name


OTHER_COMPUTATIONS = {
    "model_type": ["gpt_neo", "gpt2-xl", None],
    "activation_function": ["gelu", "relu", "gelu_fast", "quick_gelu", "silu", None],
    "layer_norm_epsilon": [1e-6, 1e-12, 0, None],
    "scale_attn_weights": [False, None],
    "scale_attn_by_inverse_layer_idx": [True],
    "tie_word_embeddings": ["no", None, False, 0, 1],
    "add_cross_attention": [True],
    "is_encoder_decoder": [True],
    "pruned_heads": [{"0": [1]}],
    "quantization_config": [{"load_in_8bit": True}],
    "auto_map": [{"AutoModelForCausalLM": "modeling.Mine"}],
    "n_layer": [1, 3, "2", 2.0, True, 0, -2],
    "n_head": [3, "2", 2.5, True, 0, -2, None, [2]],
    "n_embd": [8, "16", 0],
    "n_positions": [6, 24, "12"],
    "n_inner": [8, 63, 128, "64", 64.0, 0, -64],
    "vocab_size": [30, 32, "31"],
    "hidden_size": [8],
    "num_attention_heads": [1, 4],
    "num_hidden_layers": [1],
    "max_position_embeddings": [6],
    "dtype": ["float16", "bfloat16"],
    "torch_dtype": ["float16"],
    "n_kv_head": [1],
    "rope_theta": [10000.0],
    "rms_norm": [False],
    "sliding_window": [4],
}


@pytest.mark.parametrize("key", OTHER_COMPUTATIONS)
def test_a_config_of_another_computation_is_refused(tmp_path, key):
    """The weights fit, and the logits would be others."""
    for i, value in enumerate(OTHER_COMPUTATIONS[key]):
        source = write(tmp_path / f"theirs{i}", config=CONFIG | {key: value})
        with pytest.raises(UserError, match=rf"config\.json: {key}: "):
            import_weights(str(source), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


WITHOUT_EFFECT = {
    "n_ctx": 3,
    "n_inner": 4 * C,
    "reorder_and_upcast_attn": True,
    "resid_pdrop": 0.5,
    "use_cache": False,
    "initializer_range": 1.0,
    "summary_type": "mean",
    "bos_token_id": 0,
    "architectures": ["GPT2LMHeadModel"],
    "task_specific_params": {"text-generation": {"max_length": 50}},
    "torch_dtype": "float32",
    "transformers_version": "9.0",
    "_name_or_path": "gpt2",
    "hidden_size": C,
    "num_attention_heads": H,
    "activation_function": "gelu_pytorch_tanh",
}


@pytest.mark.parametrize("key", WITHOUT_EFFECT)
def test_a_field_without_effect_is_accepted(tmp_path, key):
    source = write(tmp_path / "theirs", config=CONFIG | {key: WITHOUT_EFFECT[key]})
    import_weights(str(source), tmp_path / "ours")
    tokens = torch.arange(T)[None] % V
    expected = published_formula(tensors(""), tokens)
    assert (logits(tmp_path / "ours", tokens) - expected).abs().max() < 1e-5


def test_all_wrong_fields_are_named_at_once(tmp_path):
    config = CONFIG | {"n_layer": 7, "scale_attn_weights": False, "rope_theta": 1.0, "n_head": "x"}
    with pytest.raises(UserError) as raised:
        import_weights(str(write(tmp_path / "theirs", config=config)), tmp_path / "ours")
    for key in ("n_layer", "scale_attn_weights", "rope_theta", "n_head"):
        assert f"config.json: {key}: " in str(raised.value)


@pytest.mark.parametrize("key", CONFIG)
def test_a_missing_size_is_refused_or_read_from_the_weights(tmp_path, key):
    config = {name: value for name, value in CONFIG.items() if name != key}
    source = write(tmp_path / "theirs", config=config)
    if key == "n_head":
        with pytest.raises(UserError, match=r"config\.json: n_head: missing"):
            import_weights(str(source), tmp_path / "ours")
    else:
        assert import_weights(str(source), tmp_path / "ours").shape.n_head == H


def test_without_a_config_the_number_of_heads_is_not_guessed(tmp_path):
    source = write(tmp_path / "theirs", config=None)
    with pytest.raises(UserError, match=r"config\.json: n_head: missing"):
        import_weights(str(source), tmp_path / "ours")


def test_an_alias_of_a_size_is_read(tmp_path):
    config = {name: value for name, value in CONFIG.items() if name != "n_head"}
    source = write(tmp_path / "theirs", config=config | {"num_attention_heads": H})
    assert import_weights(str(source), tmp_path / "ours").shape.n_head == H


def test_every_field_of_transformers_is_refused_or_has_no_effect(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    defaults = CONFIG | {"n_embd": 32, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**defaults)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(6)  # so that attention is not uniform
    model.save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs/config.json"
    config = json.loads(file.read_text())
    tokens = torch.arange(T)[None] % V
    others = {bool: [True, False], int: [1, 2, 8], float: [0.5, 0.0], str: ["relu", "mean"]}
    n_refused = 0
    for key, default in transformers.GPT2Config(**defaults).to_dict().items():
        for value in others.get(type(default), [True, 3, "x", {"0": [1]}]):
            if value == config.get(key, default):
                continue
            file.write_text(json.dumps(config | {key: value}))
            dest = tmp_path / f"{key}-{value}"
            try:
                import_weights(str(tmp_path / "theirs"), dest)
            except UserError as error:
                message = str(error)
                n_refused += 1
            else:
                message = None
            if message is not None:
                untied = key == "tie_word_embeddings" and "lm_head.weight: missing" in message
                assert untied or f"config.json: {key}: " in message
                continue
            try:
                theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "theirs")
                with torch.no_grad():
                    expected = theirs.eval()(tokens)[0]
            except Exception:  # not a config that transformers loads
                continue
            assert (logits(dest, tokens) - expected).abs().max() < 1e-4, (key, value)
    assert n_refused > 20


# -- export ----------------------------------------------------------------------------------------

SHAPE = ModelShape(n_layer=L, n_head=H, n_embd=C, seq_len=T, vocab_size=V)


def save(
    folder,
    axis="mlp",
    name=None,
    variant_paths=(),
    shape=SHAPE,
    dtype=torch.float32,
    **options,
):
    """Save random weights of GPT-2 with another variant or other options on one axis."""
    name = name or AXES[axis].default
    axes = GPT2 | {axis: VariantChoice(name=name, label=name, options=options)}
    model = ModelBuilder(shape, axes, variant_paths).model()
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: (torch.randn(parameter.shape, generator=generator) * 0.3).to(dtype)
        for name, parameter in model.named_parameters()
    }
    save_weights(Weights(shape, axes, weights, {}, variant_paths), folder)
    return folder


def other_values(field):
    """Return values of an option other than its default."""
    if isinstance(field.default, bool):
        return [not field.default]
    if isinstance(field.default, int | float):
        return [field.default + 2]
    return []


OPTIONS = [
    (axis, field.name, value)
    for axis, about in AXES.items()
    if axis != "parallelism"
    for field in dataclasses.fields(registry.load(axis, about.default).Options)
    for value in other_values(field)
]
VARIANTS = [
    (axis, name)
    for axis, about in AXES.items()
    if is_part(axis)
    for name in registry.files(axis)
    if name != about.default
]


def test_the_options_of_gpt2_are_all_tried():
    assert {name for _, name, _ in OPTIONS} >= {"width", "qk_norm", "logit_softcap"}


@pytest.mark.parametrize(("axis", "option", "value"), OPTIONS)
def test_an_option_is_refused_or_exported(tmp_path, axis, option, value):
    """Another computation would load in transformers, and give other logits."""
    source = save(tmp_path / "ours", axis, **{option: value})
    if option != "width":
        with pytest.raises(UserError, match=rf"{axis} = \w+ with {option} = {value}"):
            export_weights(source, tmp_path / "theirs")
        assert not (tmp_path / "theirs").exists()
        return
    export_weights(source, tmp_path / "theirs")
    config = json.loads((tmp_path / "theirs/config.json").read_text())
    weights = load_file(tmp_path / "theirs/model.safetensors")
    assert config["n_inner"] == value == weights["transformer.h.0.mlp.c_fc.weight"].shape[1]
    published = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    tokens = torch.arange(T)[None] % V
    assert (logits(source, tokens) - published_formula(published, tokens)).abs().max() < 1e-4


@pytest.mark.parametrize(("axis", "name"), VARIANTS)
def test_another_variant_is_refused(axis, name):
    axes = GPT2 | {axis: VariantChoice(name=name, label=name, options={})}
    weights = Weights(SHAPE, axes, {}, {})
    assert any(reason.startswith(f"{axis} = {name}: ") for reason in gpt2.unsupported(weights))


def test_a_variant_of_ones_own_is_refused(tmp_path):
    """A user's file may have the name of a variant of GPT-2, and compute something else."""
    (tmp_path / "variants/mlp").mkdir(parents=True)
    (tmp_path / "variants/mlp/gelu.py").write_text(
        "from variants.mlp.gelu import Gelu\n\n\n"
        "class Mine(Gelu):\n"
        "    def activation(self, x):\n        return x.relu()\n"
    )
    source = save(tmp_path / "ours", variant_paths=[str(tmp_path / "variants")])
    with pytest.raises(UserError, match="mlp = gelu, a variant of your own"):
        export_weights(source, tmp_path / "theirs", trust_code=True)


def test_an_export_with_options_computes_the_same_in_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokens = torch.arange(T)[None] % V
    for width in (0, 4 * C, 20, 100):
        source = save(tmp_path / f"ours{width}", width=width)
        export_weights(source, tmp_path / f"theirs{width}")
        theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / f"theirs{width}").eval()
        with torch.no_grad():
            expected = theirs(tokens).logits
        assert (logits(source, tokens) - expected).abs().max() < 1e-4


EXPRESSIBLE = [
    (width, tied, bias, dtype)
    for width in (0, 1, 4 * C, 20, 100)
    for tied in (True, False)
    for bias in (True, False)
    for dtype in (torch.float32, torch.bfloat16)
]


def test_all_that_gpt2_expresses_is_tried():
    """What the exporter writes, the importer reads: an option of the table needs a case here."""
    options = {(axis, *names) for axis, about in gpt2.EXPRESSED.items() for names in about.values()}
    assert options == {("positional",), ("attention",), ("norm",), ("mlp", "width")}


@pytest.mark.parametrize(("width", "tied", "bias", "dtype"), EXPRESSIBLE)
def test_an_export_is_imported_bit_for_bit(tmp_path, width, tied, bias, dtype):
    shape = dataclasses.replace(SHAPE, tie_embeddings=tied, bias=bias)
    source = save(tmp_path / "ours", shape=shape, dtype=dtype, width=width)
    export_weights(source, tmp_path / "theirs")
    back = import_weights(str(tmp_path / "theirs"), tmp_path / "back")
    before = load_weights(source)
    zeros = back.tensors.keys() - before.tensors.keys()
    assert bool(zeros) is not bias  # the layout has biases: zeros compute the same
    assert not any(back.tensors[name].any() for name in zeros)
    for name, tensor in before.tensors.items():
        assert back.tensors[name].dtype == dtype and torch.equal(back.tensors[name], tensor), name
    assert back.shape == dataclasses.replace(shape, bias=True)
    expected = {} if width in (0, 4 * C) else {"width": width}
    assert back.axes["mlp"].options == expected
    assert load_weights(tmp_path / "back").sha256 == back.sha256


class Evil:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def test_a_broken_checkpoint_is_rejected_without_leftovers(tmp_path):
    def missing(w):
        del w["transformer.h.1.mlp.c_fc.bias"]

    def extra(w):
        w["transformer.h.0.attn.q_norm"] = torch.zeros(3)

    def misshapen(w):
        w["transformer.h.0.attn.c_proj.weight"] = torch.zeros(C, 2 * C)

    def quantized(w):
        name = "transformer.h.0.mlp.c_fc.weight"
        w[name] = w[name].mul(100).to(torch.int8)

    for change, message in (
        (quantized, r"h\.0\.mlp\.c_fc\.weight: has type torch.int8, must be floating-point"),
        (missing, r"h\.1\.mlp\.c_fc\.bias: missing"),
        (extra, r"h\.0\.attn\.q_norm: no such tensor"),
        (misshapen, r"h\.0\.attn\.c_proj\.weight: has shape \(32, 16\), the model's is \(16, 16\)"),
    ):
        weights = tensors()
        change(weights)
        source = write(tmp_path / change.__name__, weights)
        with pytest.raises(UserError, match=message):
            import_weights(str(source), tmp_path / "ours")

    pickled = write(tmp_path / "pickled", how="bin")
    (pickled / "pytorch_model.bin").write_bytes(
        pickle.dumps({"wte.weight": Evil(tmp_path / "it-ran")}, protocol=2)
    )
    truncated = write(tmp_path / "truncated")
    whole = (truncated / "model.safetensors").read_bytes()
    (truncated / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    sharded = write(tmp_path / "sharded", how="sharded")
    (sharded / "b.safetensors").unlink()
    untied = write(tmp_path / "untied", tensors() | {"lm_head.weight": torch.zeros(V, C)})
    (tmp_path / "empty").mkdir()
    for source, message in (
        (pickled, "could run code"),
        (truncated, "model.safetensors: truncated or not a weights file"),
        (sharded, "b.safetensors: no such file"),
        (untied, "lm_head.weight differs from wte.weight"),
        (tmp_path / "empty", "not a checkpoint: must hold model.safetensors"),
        (
            write(tmp_path / "heads", config=CONFIG | {"n_head": 3}),
            "n_head: 3 does not divide n_embd = 16",
        ),
        (
            write(tmp_path / "other", config=CONFIG | {"n_layer": 5}),
            "n_layer: 5, but the weights have 2",
        ),
        (tmp_path / "gpt3", "no such file or folder, and not a name on the hub"),
    ):
        with pytest.raises(UserError, match=message):
            import_weights(str(source), tmp_path / "ours")
    assert not (tmp_path / "it-ran").exists()
    assert not (tmp_path / "ours").exists() and not list(tmp_path.glob(".*"))


def set_value(value, name="transformer.h.1.mlp.c_fc.weight"):
    def change(weights):
        weights[name] = weights[name].clone()
        weights[name].view(-1)[5] = value

    return change


def set_type(dtype, name="transformer.h.0.mlp.c_fc.weight"):
    def change(weights):
        weights[name] = weights[name].to(dtype)

    return change


def set_width(layer, width):
    def change(weights):
        name = f"transformer.h.{layer}.mlp"
        weights[f"{name}.c_fc.weight"] = torch.zeros(C, width)
        weights[f"{name}.c_fc.bias"] = torch.zeros(width)
        weights[f"{name}.c_proj.weight"] = torch.zeros(width, C)

    return change


def add_head(weights):
    weights["lm_head.weight"] = torch.zeros(V + 1, C)


WIDE = r"c_fc\.weight: has shape \(20, 16\), the model's is \(64, 16\)"
REFUSED = {  # a change of the weights, one of the config, and the reason
    "nan": (set_value(math.nan), {}, r"h\.1\.mlp\.c_fc\.weight: 1 of 1024 .* nan at \[0, 5\]"),
    "infinity": (set_value(math.inf), {}, r"c_fc\.weight: 1 of 1024 .* inf at \[0, 5\]"),
    "nan embedding": (set_value(math.nan, "transformer.wte.weight"), {}, r"wte\.weight: 1 of 496"),
    "nan of half precision": (
        lambda w: (set_value(math.nan)(w), set_type(torch.float16, "transformer.ln_f.bias")(w)),
        {},
        r"c_fc\.weight: 1 of 1024",
    ),
    **{
        f"{dtype}": (set_type(dtype), {}, rf"c_fc\.weight: has type {dtype}, must be floating")
        for dtype in (torch.int8, torch.uint8, torch.int64, torch.bool, torch.float8_e4m3fn)
    },
    "integer embedding": (
        set_type(torch.int64, "transformer.wte.weight"),
        {},
        r"wte\.weight: has type torch\.int64",
    ),
    "vector embedding": (
        lambda w: w.update({"transformer.wte.weight": torch.zeros(V)}),
        {},
        r"wte\.weight: has shape \(31,\), must be a matrix",
    ),
    "untied without a head": (
        None,
        {"tie_word_embeddings": False},
        r"tie_word_embeddings: false, but the weights have no lm_head\.weight; set it to true",
    ),
    "untied with another vocabulary": (
        add_head,
        {"tie_word_embeddings": False},
        r"lm_head\.weight: has shape \(32, 16\), the model's is \(31, 16\)",
    ),
    "other n_inner": (None, {"n_inner": 20}, "n_inner: 20, but the weights have 64"),
    "n_inner null": (
        lambda w: (set_width(0, 20)(w), set_width(1, 20)(w)),
        {"n_inner": None},
        "n_inner: null means 4 n_embd = 64, but the weights have 20",
    ),
    "layers of two widths": (set_width(1, 20), {"n_inner": 64}, rf"h\.1\.mlp\.{WIDE}"),
    "fractional n_head": (None, {"n_head": 2.5}, r"n_head: 2\.5: must be a positive integer"),
    "whole n_head as a fraction": (None, {"n_head": 2.0}, r"n_head: 2\.0: must be a positive int"),
    "fractional heads": (None, {"n_head": 3}, "n_head: 3 does not divide n_embd = 16"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_faulty_checkpoint_is_refused_by_name(tmp_path, name):
    change, config, reason = REFUSED[name]
    weights = tensors()
    if change is not None:
        change(weights)
    source = write(tmp_path / "theirs", weights, CONFIG | config)
    with pytest.raises(UserError, match=reason):
        import_weights(str(source), tmp_path / "ours")
    assert not (tmp_path / "ours").exists() and not list(tmp_path.glob(".*"))


def test_a_checkpoint_of_ours_with_nan_is_refused(tmp_path):
    """A run that starts from it would fail at its first step."""
    source = save(tmp_path / "ours")
    weights = load_file(source / "model.safetensors")
    set_value(math.nan, "h.0.attn.c_proj.weight")(weights)
    save_file(weights, source / "model.safetensors")
    with pytest.raises(UserError, match=r"h\.0\.attn\.c_proj\.weight: 1 of 256 .* \[0, 5\]"):
        load_weights(source)


def test_an_existing_folder_is_not_overwritten(tmp_path):
    source = str(write(tmp_path / "theirs"))
    import_weights(source, tmp_path / "ours")
    with pytest.raises(UserError, match="exists already"):
        import_weights(source, tmp_path / "ours")


@pytest.mark.parametrize(
    ("n_layer", "n_head", "n_embd", "parameters"),
    [
        (12, 12, 768, 124_439_808),
        (24, 16, 1024, 354_823_168),
        (36, 20, 1280, 774_030_080),
        (48, 25, 1600, 1_557_611_200),
    ],
)
def test_the_published_shapes_are_read_from_their_tensors(
    tmp_path, n_layer, n_head, n_embd, parameters
):
    shape = ModelShape(
        n_layer=n_layer, n_head=n_head, n_embd=n_embd, seq_len=1024, vocab_size=50257
    )
    tensors = dict(ModelBuilder(shape, GPT2, []).model().named_parameters())  # on the meta device
    theirs, config = gpt2.write(Weights(shape, GPT2, tensors, {}))
    assert sum(tensor.numel() for tensor in theirs.values()) == parameters
    for stated in (config, {}):
        assert gpt2.read(dict(theirs), stated, tmp_path).shape == shape


def test_import_show_and_export_from_the_command_line(tmp_path, capsys):
    def harness(*arguments):
        with pytest.raises(SystemExit) as raised:
            main(["checkpoint", *map(str, arguments)])
        return raised.value.code, *capsys.readouterr()

    source = write(tmp_path / "theirs")
    code, printed, _ = harness("import", source, tmp_path / "ours")
    sha256 = load_weights(tmp_path / "ours").sha256
    assert code == 0 and sha256 in printed
    _, shown, _ = harness("show", tmp_path / "ours")
    for text in (sha256, "n_layer=2 n_head=2 n_embd=16", f"loaded from {source}"):
        assert text in shown
    assert harness("export", tmp_path / "ours", tmp_path / "back")[0] == 0
    code, _, error = harness("import", tmp_path / "missing", tmp_path / "x")
    assert code == 2 and "no such file or folder" in error
    code, _, error = harness("export", tmp_path / "ours", tmp_path / "x", "--format", "llama")
    for axis in ("positional", "norm", "mlp"):
        assert code == 2 and f"cannot be exported as llama: {axis} = " in error
