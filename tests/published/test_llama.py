"""An export that another tool loads, and that computes other logits, is worse than none."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from harness.errors import UserError
from harness.model.builder import ModelBuilder
from harness.model.weights import GPT2, Weights, load_weights, save_weights
from harness.published import llama
from harness.published.convert import export_weights, import_weights
from harness.results.records import VariantChoice
from variants import registry
from variants.base import AXES, ModelShape, is_part

L, H, C, T, V = 3, 4, 32, 24, 40
BASE = {"positional": ("rope", {}), "norm": ("rmsnorm", {}), "mlp": ("swiglu", {})}
LAYOUTS = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}


def shape(**settings):
    return ModelShape(
        **{"n_layer": L, "n_head": H, "n_embd": C, "seq_len": T, "vocab_size": V, "bias": False}
        | settings
    )


def save(folder, *, settings=None, variant_paths=(), tokenizer=None, **axes):
    """Save random weights of a Llama with other variants on some axes."""
    choices = {
        axis: VariantChoice(name=name, label=name, options=options)
        for axis, (name, options) in {**BASE, **axes}.items()
    }
    model_shape = shape(**settings or {})
    model = ModelBuilder(model_shape, GPT2 | choices, variant_paths).model()
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(parameter.shape, generator=generator) * 0.4
        for name, parameter in model.named_parameters()
    }
    weights = Weights(model_shape, GPT2 | choices, tensors, {}, variant_paths, tokenizer)
    save_weights(weights, folder)
    return folder


def logits(folder, tokens):
    weights = load_weights(folder)
    model = weights.model()
    with torch.no_grad():
        return model.eval().logits(tokens)


def angles(parameters, width, length):
    """Return the angles (T, R/2) of positions, and the factor of their cosines and sines."""
    i = torch.arange(0, width, 2, dtype=torch.float64)
    frequency = parameters["rope_theta"] ** (-i / width)
    scale = 1.0
    if parameters["rope_type"] == "linear":
        frequency = frequency / parameters["factor"]
    elif parameters["rope_type"] == "yarn":  # Peng et al. 2023, 3.2 to 3.4
        trained = parameters["original_max_position_embeddings"]

        def dimension(turns):
            distance = math.log(trained / (turns * 2 * math.pi))
            return width * distance / (2 * math.log(parameters["rope_theta"]))

        low = max(math.floor(dimension(parameters["beta_fast"])), 0)
        high = min(math.ceil(dimension(parameters["beta_slow"])), width - 1)
        ramp = ((i / 2 - low) / max(high - low, 0.001)).clamp(0, 1)
        frequency = frequency * (1 - ramp) + frequency / parameters["factor"] * ramp
        scale = parameters["attention_factor"]
    return torch.arange(length)[:, None] * frequency, scale


def published_formula(folder, tokens):
    """Return the logits of Llama and Mistral as their papers state them, in float64."""
    config = json.loads((folder / "config.json").read_text())
    w = {k: v.double() for k, v in load_file(folder / "model.safetensors").items()}
    n_head, n_kv_head = config["num_attention_heads"], config["num_key_value_heads"]
    width, length = config["head_dim"], tokens.shape[1]
    angle, scale = angles(config["rope_parameters"], width, length)

    def norm(x, name):
        return x * (x.square().mean(-1, keepdim=True) + config["rms_norm_eps"]).rsqrt() * w[name]

    def linear(x, name):
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def heads(x, n):
        return x.view(*x.shape[:2], n, width).transpose(1, 2)

    def rotated(x):
        first, second = x[..., : width // 2], x[..., width // 2 :]
        cos, sin = angle.cos() * scale, angle.sin() * scale
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)

    distance = torch.arange(length)[:, None] - torch.arange(length)
    window = config.get("sliding_window") or length
    hidden = (distance < 0) | (distance >= window)
    x = w["model.embed_tokens.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        y = norm(x, f"{block}.input_layernorm.weight")
        q = rotated(heads(linear(y, f"{block}.self_attn.q_proj"), n_head))
        k = rotated(heads(linear(y, f"{block}.self_attn.k_proj"), n_kv_head))
        v = heads(linear(y, f"{block}.self_attn.v_proj"), n_kv_head)
        k, v = (part.repeat_interleave(n_head // n_kv_head, dim=1) for part in (k, v))
        scores = (q @ k.transpose(-1, -2) / math.sqrt(width)).masked_fill(hidden, -math.inf)
        y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + linear(y, f"{block}.self_attn.o_proj")
        y = norm(x, f"{block}.post_attention_layernorm.weight")
        gate = F.silu(linear(y, f"{block}.mlp.gate_proj"))
        x = x + linear(gate * linear(y, f"{block}.mlp.up_proj"), f"{block}.mlp.down_proj")
    x = norm(x, "model.norm.weight")
    tied = config["tie_word_embeddings"]
    return x @ w["model.embed_tokens.weight" if tied else "lm_head.weight"].T


def rope(**options):
    return {"positional": ("rope", options)}


def window(width, **options):
    return {"attention": ("sliding_window", {"window": width, **options})}


EXPORTED = {
    "mha": {},
    "gqa": {"attention": ("gqa", {"n_kv_head": 2, "kv_pooling": "first"})},
    "mqa": {"attention": ("mqa", {})},
    "width": {"mlp": ("swiglu", {"width": 20})},
    "theta": rope(theta=500.0),
    "linear": rope(scaling="linear", factor=3.0),
    "ntk": rope(scaling="ntk", factor=4.0),
    "yarn": rope(scaling="yarn", factor=2.0, theta=100.0),
    "untied": {"settings": {"tie_embeddings": False}},
    "bias": {"settings": {"bias": True, "tie_embeddings": False}},
    "window 1": window(1),
    "window 5": window(5),
    "window of layers": window([7] * L, dilation=[1] * L, head_dilation=None),
    "window above": window(T + 9),
}
CASES = [
    (name, layout)
    for name in EXPORTED
    for layout in LAYOUTS
    if not (layout == "llama" and "window" in name) and (name, layout) != ("bias", "mistral")
]


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_an_export_computes_the_same_logits(tmp_path, name, layout):
    """By the formula of the papers, by transformers if it is here, and back bit for bit."""
    source = save(tmp_path / "ours", **EXPORTED[name])
    export_weights(source, tmp_path / "theirs", layout)
    tokens = torch.randint(V, (2, T), generator=torch.Generator().manual_seed(1))
    expected = logits(source, tokens)
    formula = published_formula(tmp_path / "theirs", tokens)
    torch.testing.assert_close(formula.float(), expected, atol=2e-4, rtol=1e-4)

    import_weights(str(tmp_path / "theirs"), tmp_path / "back")
    tensors, back = load_weights(source).tensors, load_weights(tmp_path / "back").tensors
    assert tensors.keys() == back.keys()
    assert all(torch.equal(tensors[key], back[key]) for key in tensors)
    torch.testing.assert_close(logits(tmp_path / "back", tokens), expected)


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_transformers_computes_the_same_logits(tmp_path, name, layout):
    transformers = pytest.importorskip("transformers")
    source = save(tmp_path / "ours", **EXPORTED[name])
    export_weights(source, tmp_path / "theirs", layout)
    model = getattr(transformers, LAYOUTS[layout])
    theirs, info = model.from_pretrained(
        tmp_path / "theirs", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info.values()), info
    tokens = torch.randint(V, (2, T), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        actual = theirs.eval()(tokens).logits
    torch.testing.assert_close(actual, logits(source, tokens), atol=2e-4, rtol=1e-4)
    theirs.save_pretrained(tmp_path / "saved")
    import_weights(str(tmp_path / "saved"), tmp_path / "back")
    expected = load_weights(source)
    back = load_weights(tmp_path / "back")
    assert all(torch.equal(expected.tensors[key], back.tensors[key]) for key in back.tensors)


# -- what is refused -------------------------------------------------------------------------------

REFUSED = {
    **{
        f"{axis} {name}": {axis: (name, {"n_kv_head": 2} if name == "gqa" else {})}
        for axis in AXES
        if is_part(axis)
        for name in registry.files(axis)
        if name not in llama.EXPRESSED["mistral"][axis]
    },
    "fraction": rope(fraction=0.5),
    "interleaved": rope(interleaved=True),
    "part of a position": rope(scaling="yarn", factor=7.0),
    "qk_norm": {"attention": ("mha", {"qk_norm": True})},
    "logit_softcap": {"attention": ("gqa", {"n_kv_head": 2, "logit_softcap": 20.0})},
    "softcap and window": window(5, logit_softcap=20.0),
    "global_tokens": window(5, global_tokens=2),
    "dilation": window(5, dilation=2),
    "head_dilation": window(5, head_dilation=[1, 1, 2, 2]),
    "layer_pattern": window(5, layer_pattern="SL"),
    "other windows": window([5, 5, 6]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_architecture_is_refused(tmp_path, name):
    changes = REFUSED[name]
    (axis,) = changes
    choices = {
        key: VariantChoice(name=variant, label=variant, options=options)
        for key, (variant, options) in {**BASE, **changes}.items()
    }
    weights = Weights(shape(), GPT2 | choices, {}, {})
    for layout in LAYOUTS:
        reasons = llama.unsupported(weights, layout)
        assert reasons and all(reason.startswith(f"{axis} = ") for reason in reasons)


def test_a_window_is_no_llama_and_a_bias_no_mistral(tmp_path):
    for layout, changes, reason in (
        ("llama", window(5), "attention = sliding_window: Llama has mha or gqa or mqa"),
        ("mistral", EXPORTED["bias"], "bias = true: Mistral has no biases"),
        ("gpt2", {}, "positional = rope: GPT-2 has learned"),
    ):
        source = save(tmp_path / layout, **changes)
        with pytest.raises(UserError, match=f"cannot be exported as {layout}: {reason}"):
            export_weights(source, tmp_path / "theirs", layout)
    assert not (tmp_path / "theirs").exists()


def test_all_reasons_are_named_at_once(tmp_path):
    source = save(tmp_path / "ours", **rope(fraction=0.5), mlp=("gelu", {}), norm=("layernorm", {}))
    with pytest.raises(UserError) as raised:
        export_weights(source, tmp_path / "theirs", "llama")
    assert len(raised.value.problems) == 3


def test_a_variant_of_ones_own_is_refused(tmp_path):
    (tmp_path / "variants/mlp").mkdir(parents=True)
    (tmp_path / "variants/mlp/swiglu.py").write_text(
        "from variants.mlp.swiglu import SwiGLU\n\n\n"
        "class Mine(SwiGLU):\n    def activation(self, x):\n        return super().activation(-x)\n"
    )
    source = save(tmp_path / "ours", variant_paths=[str(tmp_path / "variants")])
    with pytest.raises(UserError, match="mlp = swiglu, a variant of your own"):
        export_weights(source, tmp_path / "theirs", "llama", trust_code=True)


OTHER_COMPUTATIONS = {
    "hidden_act": ["gelu", "relu"],
    "rms_norm_eps": [1e-6, None],
    "attention_bias": ["yes"],
    "mlp_bias": [True],
    "pretraining_tp": [2],
    "num_key_value_heads": [3, 0],
    "head_dim": [C // H * 2],
    "hidden_size": [None, 16],
    "num_attention_heads": [5, None],
    "max_position_embeddings": [None],
    "sliding_window": [5],
    "rope_theta": [777.0, -1],
    "rope_parameters": [
        {"rope_type": "llama3", "factor": 2.0},
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "linear", "factor": 0.5},
        {"rope_type": "default", "partial_rotary_factor": 0.5},
        {"rope_type": "yarn", "factor": 2.0},
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": T},
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 12, "mscale": 1.0},
    ],
    "partial_rotary_factor": [0.5],
    "quantization_config": [{"load_in_8bit": True}],
    "dtype": ["bfloat16"],
}


@pytest.mark.parametrize("key", OTHER_COMPUTATIONS)
def test_a_config_of_another_computation_is_refused(tmp_path, key):
    export_weights(save(tmp_path / "ours"), tmp_path / "theirs", "llama")
    file = tmp_path / "theirs/config.json"
    config = json.loads(file.read_text())
    for value in OTHER_COMPUTATIONS[key]:
        file.write_text(json.dumps(config | {key: value}))
        with pytest.raises(UserError, match=r"config\.json: |has shape"):
            import_weights(str(tmp_path / "theirs"), tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_tensors_that_do_not_fit_are_named(tmp_path):
    """Of q, k and v, two could have each other's rows, and fit together."""
    export_weights(save(tmp_path / "ours", **EXPORTED["gqa"]), tmp_path / "theirs", "mistral")
    file = tmp_path / "theirs/model.safetensors"
    tensors = load_file(file)
    block = "model.layers.1"
    q, k = (f"{block}.self_attn.{name}_proj.weight" for name in "qk")
    tensors[q], tensors[k] = tensors[k], tensors[q]
    del tensors[f"{block}.mlp.up_proj.weight"]
    tensors[f"{block}.mlp.up_proj.bias"] = torch.zeros(3)
    save_file(tensors, file)
    with pytest.raises(UserError) as raised:
        import_weights(str(tmp_path / "theirs"), tmp_path / "back")
    messages = {str(p).split(": ", 1)[1].split(":")[0] for p in raised.value.problems}
    assert messages == {q, k, f"{block}.mlp.up_proj.weight", f"{block}.mlp.up_proj.bias"}


IMPOSSIBLE = {  # fields of config.json, and the message
    "layers": (
        {"num_hidden_layers": 10**9},
        r"num_hidden_layers: 1000000000, but .* have 3 layers",
    ),
    "length": ({"max_position_embeddings": 10**9}, r"seq_len: 1000000000: Input should be less"),
    "width": ({"intermediate_size": 10**30}, r"must be a positive integer up to 2,147,483,647"),
    "layout": ({"model_type": ["llama"]}, r"not a GPT-2 checkpoint: wte\.weight"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_impossible_field_is_named_before_a_model_is_built(tmp_path, name):
    fields, message = IMPOSSIBLE[name]
    folder = tmp_path / "theirs"
    export_weights(save(tmp_path / "ours"), folder, "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(UserError, match=message):
        import_weights(str(folder), tmp_path / "back")


def test_the_end_of_text_fits_the_vocabulary(tmp_path):
    """Defaults of transformers name tokens that a small vocabulary lacks, or other ones."""
    cases = (("bytes", 256, None), ("gpt2", 50257, 50256), (None, V, None))
    for tokenizer, vocab_size, expected in cases:
        settings = {"vocab_size": vocab_size, "n_layer": 1, "n_embd": 8}
        source = save(tmp_path / f"{tokenizer}", settings=settings, tokenizer=tokenizer)
        weights = load_weights(source)
        for layout in LAYOUTS:
            _, config = llama.write(weights, layout)
            assert config["bos_token_id"] == config["eos_token_id"] == expected
            assert config["dtype"] == config["torch_dtype"] == "float32"
