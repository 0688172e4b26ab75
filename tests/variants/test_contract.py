"""One contract for every variant that lies in the folders. A variant added tomorrow is held to it as it stands.

Only a variant whose option has no default needs something here: values to try, in `SAMPLES`, by the option's name.
Options that have a default are also tried at another value, one at a time: yes/no and a choice of words at all that
they can be, others at what `VARIATIONS` gives, by the option's name.
"""

import dataclasses
import itertools
import math
import typing

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.utils.flop_counter import FlopCounterMode

from harness.model.builder import ModelBuilder
from harness.model.gpt import GPT
from harness.model.initialization import init_parameters
from harness.probes.first_step import CPU_KERNELS
from variants import registry
from variants.attention.mha import MultiHead
from variants.base import AXES, InitSpec, ModelShape, Part, Positional

SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=32, seq_len=24, vocab_size=13)
T, C, H, D = SHAPE.seq_len, SHAPE.n_embd, SHAPE.n_head, SHAPE.head_dim
B = 3
SAMPLES = {  # values to try, alone or, where an option has no default, with all others at their defaults
    "n_kv_head": (2,),
    "window": (5, 1, 8, 24, 100),  # 5 does not divide T, 24 is T, 100 is more
}
VARIATIONS = {  # other values, tried one at a time with the first possible sample
    "window": ([8, 5],),
    "layer_pattern": ("LS",),
    "dilation": (3, [1, 2]),
    "head_dilation": ([1, 1, 2, 4],),
    "global_tokens": (2,),
    "logit_softcap": (5.0,),  # near the scores that `randomise` makes
    "theta": (100.0,),
    "fraction": (0.5,),
    "scale": (1.0,),
    "n_buckets": (8,),
    "max_distance": (20,),
    "width": (24,),
    "kv_rank": (6,),
    "q_rank": (12,),
    "rope_dim": (6,),
}
WITH = {"scaling": {"factor": 2.0}}  # what an option needs beside it


class DistanceBias(Positional):
    """A bias for each head that falls with distance, as ALiBi's (Press et al. 2022), with slopes that are trained."""

    has_bias = True

    def __init__(self, shape, options):
        super().__init__(shape, options)
        self.slope = nn.Parameter(0.5 ** torch.arange(1.0, shape.n_head + 1))

    def init_specs(self):
        return {"slope": InitSpec(std=1.0)}

    def bias(self, q_positions, k_positions):
        distance = q_positions[..., None, :, None] - k_positions[..., None, None, :]
        return -self.slope[:, None, None] * distance


@dataclasses.dataclass(frozen=True)
class Case:
    """A variant with options that it can have at SHAPE, or `trouble`: why there are none."""

    name: str
    cls: type
    options: object = None
    trouble: str = ""

    def __str__(self):
        fields = dataclasses.fields(self.options) if self.options else ()
        values = {f.name: getattr(self.options, f.name) for f in fields}
        return f"{self.name}({', '.join(f'{f.name}={values[f.name]}' for f in fields if values[f.name] != f.default)})"

    def make(self, shape=SHAPE, **kwargs):
        if self.trouble:
            pytest.fail(self.trouble)
        return self.cls(shape, self.options, **kwargs)


def cases(axis):
    for name, file in registry.files(axis).items():
        cls = registry.load(axis, name)
        fields = dataclasses.fields(cls.Options)
        required = [
            f
            for f in fields
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        if missing := [f.name for f in required if f.name not in SAMPLES]:
            yield Case(
                name,
                cls,
                trouble=f"{file.name}: {missing} has no default; add a sample to SAMPLES in {__file__}",
            )
            continue
        sampled = [f.name for f in fields if f.name in SAMPLES]
        candidates = [
            cls.Options(**dict(zip(sampled, values, strict=True)))
            for values in itertools.product(*(SAMPLES[name] for name in sampled))
        ]
        possible = [
            Case(name, cls, options) for options in candidates if not cls.check(SHAPE, options)
        ]
        refused = f"{file.name}: check() refuses every sample; add one to SAMPLES in {__file__}"
        yield from possible or [Case(name, cls, trouble=refused)]


def others(option, hint):
    """Return what an option can be, as far as its type or `VARIATIONS` tells; a conversion shows with a checkpoint."""
    if option.metadata.get("conversion"):
        return ()
    words = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    return (*((True, False) if hint is bool else words), *VARIATIONS.get(option.name, ()))


def varied(axis):
    """Yield the first case of each variant with one option changed, where its `check` allows it."""
    for _, (case, *_) in itertools.groupby(cases(axis), key=lambda case: case.name):
        hints = typing.get_type_hints(case.cls.Options)
        for option in dataclasses.fields(case.cls.Options) if case.options else ():
            for value in others(option, hints[option.name]):
                options = dataclasses.replace(
                    case.options, **WITH.get(option.name, {}), **{option.name: value}
                )
                if options != case.options and not case.cls.check(SHAPE, options):
                    yield Case(case.name, case.cls, options)


def fit(attention, positional):
    """Return whether a study would let the two meet, or cannot tell because of a case's trouble."""
    if attention.trouble or positional.trouble:
        return True
    width = attention.cls.rotary_dim(SHAPE, attention.options)
    placed = attention.cls.supports_bias or not positional.cls.has_bias
    return placed and not positional.cls.check_rotary(width, positional.options)


def pair(attentions, positionals):
    return [both for both in itertools.product(attentions, positionals) if fit(*both)]


def named(cases, *names):
    """Return the first case of each name."""
    return [next(case for case in cases if case.name == name) for name in names]


ATTENTIONS, VARIED_ATTENTIONS = list(cases("attention")), list(varied("attention"))
POSITIONALS = [*cases("positional"), Case("distance_bias", DistanceBias, DistanceBias.Options())]
VARIED_POSITIONALS = list(varied("positional"))
NORMS, MLPS = ([*cases(axis), *varied(axis)] for axis in ("norm", "mlp"))
PLAIN = named(POSITIONALS, "rope")
PAIRS = [
    *pair(ATTENTIONS, POSITIONALS),
    *pair(VARIED_ATTENTIONS, named(POSITIONALS, "rope", "distance_bias")),
    *pair(named(ATTENTIONS, "mha", "sliding_window"), VARIED_POSITIONALS),
]
WHOLES = [
    (*around, *within)
    for around in pair(named(ATTENTIONS, "mha"), named(POSITIONALS, "learned"))
    + pair(named(ATTENTIONS, "gqa"), named(POSITIONALS, "rope"))
    for within in itertools.product(NORMS, MLPS)
]
every_pair = pytest.mark.parametrize(("attention", "positional"), PAIRS, ids=str)
every_attention = pytest.mark.parametrize("attention", [*ATTENTIONS, *VARIED_ATTENTIONS], ids=str)
every_positional = pytest.mark.parametrize(
    "positional", [*POSITIONALS, *VARIED_POSITIONALS], ids=str
)
every_norm = pytest.mark.parametrize("norm", NORMS, ids=str)
every_mlp = pytest.mark.parametrize("mlp", MLPS, ids=str)
every_whole = pytest.mark.parametrize(("attention", "positional", "norm", "mlp"), WHOLES, ids=str)
needs_gpu = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
POSITIONS = torch.arange(T)


def randomise(module, seed=0):
    """Give all parameters values so large that a wrong scale, order or mask shows; GPT-2's would hide it."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return module


def make_pair(attention, positional):
    return randomise(attention.make(layer=0), 1), randomise(positional.make(), 2)


def make_gpt(attention, positional, norm=None, mlp=None, shape=SHAPE):
    parts = ModelBuilder(shape, {}, [])
    parts.positional, parts.attention = (
        lambda: positional.make(shape),
        lambda layer: attention.make(shape, layer=layer),
    )
    if norm is not None:
        parts.norm, parts.mlp = lambda: norm.make(shape), lambda: mlp.make(shape)
    return GPT(shape, parts)


def inputs(seed=3, *size):
    return torch.randn(size or (B, T, C), generator=torch.Generator().manual_seed(seed))


def influence(outputs_of, x_1TC):
    """Return |d output t / d input s| as (t, s): row t of the batch is asked for its output t alone."""
    x = x_1TC.detach().expand(T, -1, -1).clone().requires_grad_()
    own = outputs_of(x)[POSITIONS, POSITIONS]
    (own * torch.randn(own.shape, generator=torch.Generator().manual_seed(4))).sum().backward()
    return x.grad.abs().amax(-1)


def token_influence(model):
    """Return |d logits t / d token embedding s| as (t, s)."""
    tokens = torch.randint(SHAPE.vocab_size, (1, T), generator=torch.Generator().manual_seed(5))

    def logits(x):
        hook = model.wte.register_forward_hook(lambda *_: x)
        try:
            return model.logits(tokens.expand(T, T))
        finally:
            hook.remove()

    return influence(logits, model.wte(tokens))


def seen_by(attention, positional):
    """Return which key s a query t sees in one layer, (t, s), as its gradient tells."""
    return influence(lambda x: attention(x, POSITIONS, positional), inputs()[:1]) > 0


def head_seen_by(attention, positional):
    """Return which key s a query t sees in each head, (H, t, s): heads lie side by side before `c_proj`."""
    heads = []
    hook = attention.c_proj.register_forward_pre_hook(
        lambda _, args: heads.append(args[0].unflatten(-1, (H, D)))
    )

    def output(x, h):
        attention(x, POSITIONS, positional)
        return heads.pop()[..., h, :]

    try:
        return torch.stack(
            [influence(lambda x, h=h: output(x, h), inputs()[:1]) > 0 for h in range(H)]
        )
    finally:
        hook.remove()


def reference(attention, options, positional, x_BTC, sees):
    """Softmax attention over the visible keys, query by query, in float64, from parameters and options alone."""
    p = {name: value.double() for name, value in attention.named_parameters()}
    n_kv_head = (len(p["c_attn.bias"]) - C) // (2 * D)
    projected = x_BTC.double() @ p["c_attn.weight"].T + p["c_attn.bias"]
    q, k, v = projected.split((C, n_kv_head * D, n_kv_head * D), dim=-1)
    q, k, v = (z.reshape(len(z), T, -1, D).transpose(1, 2) for z in (q, k, v))
    if options.qk_norm:
        q, k = (
            z / (z.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p[f"{name}_norm.weight"]
            for name, z in (("q", q), ("k", k))
        )
    positions = POSITIONS.to(x_BTC.device)
    q, k = positional.rotate(q, k, positions)
    bias = positional.bias(positions, positions)
    bias = torch.zeros(H, T, T, device=q.device) if bias is None else bias.double().expand(H, T, T)
    rows = []
    for t, h in itertools.product(range(T), range(H)):
        group, keys = h * n_kv_head // H, sees[h, t].nonzero()[:, 0]
        scores = (k[:, group, keys] * q[:, h, t, None]).sum(-1) / math.sqrt(D)
        if options.logit_softcap:
            scores = options.logit_softcap * torch.tanh(scores / options.logit_softcap)
        scores = scores + bias[h, t, keys]
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        rows.append((weights[..., None] * v[:, group, keys]).sum(1))
    return torch.cat(rows, -1).view(len(x_BTC), T, C) @ p["c_proj.weight"].T + p["c_proj.bias"]


def need_reference(module):
    known = {f"c_{x}.{y}" for x in ("attn", "proj") for y in ("weight", "bias")}
    if not isinstance(module, MultiHead) or {
        name for name, _ in module.named_parameters()
    } - known - {f"{x}_norm.weight" for x in "qk"}:
        pytest.skip(
            "has other parameters than GPT-2's attention: write its own reference beside it"
        )


# -- attention x positional ------------------------------------------------------------------------------------------


@every_pair
def test_no_output_sees_a_later_token_and_each_sees_what_its_layers_reach(attention, positional):
    """A model that peeks ahead has a wonderful loss and is worthless; one that sees less is not what it is called."""
    model = randomise(make_gpt(attention, positional))
    layers = [seen_by(block.attn, model.positional).double() for block in model.h]
    reach = torch.linalg.multi_dot(layers[::-1]) > 0
    grad = token_influence(model)
    assert grad.shape == (T, T)
    assert not grad.triu(1).any(), "an output depends on a later token"
    assert (grad.diagonal() > 0).all(), "an output does not depend on its own token"
    assert torch.equal(grad > 0, reach)


@every_pair
def test_logits_have_their_shape_and_all_gradients_are_finite(attention, positional):
    """A parameter without a gradient never trains; a NaN in one ends the run."""
    model = make_gpt(attention, positional)
    init_parameters(model, seed=0)
    tokens = torch.randint(SHAPE.vocab_size, (B, T))
    assert model.logits(tokens).shape == (B, T, SHAPE.vocab_size)
    model(tokens, tokens.roll(-1, 1)).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@every_device
@every_pair
def test_attention_and_its_gradients_agree_with_the_plain_formula(attention, positional, device):
    """The fused kernel, the blocks and the masks compute softmax attention over the visible keys, and nothing else."""
    options, (attention, positional) = attention.options, make_pair(attention, positional)
    need_reference(attention)
    sees = head_seen_by(attention, positional).to(device)
    attention, positional = attention.to(device), positional.to(device)
    parameters = [
        *attention.parameters(),
        *(p for p in positional.parameters() if positional.has_bias),
    ]
    x, probe = inputs().to(device).requires_grad_(), inputs(6).to(device)

    y = attention(x, POSITIONS.to(device), positional)
    expected = reference(attention, options, positional, x, sees)
    close = 1e-5 if device == "cpu" else 1e-4
    torch.testing.assert_close(y.double(), expected, atol=close, rtol=close)

    wanted = [x, *parameters]
    got = torch.autograd.grad((y * probe).sum(), wanted)
    for found, right in zip(
        got, torch.autograd.grad((expected * probe).sum(), wanted), strict=True
    ):
        torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-4)


@every_device
@every_pair
def test_bf16_is_the_plain_formula_but_for_rounding(attention, positional, device):
    options, (attention, positional) = attention.options, make_pair(attention, positional)
    need_reference(attention)
    sees = head_seen_by(attention, positional).to(device)
    attention, positional, x = attention.to(device), positional.to(device), inputs().to(device)
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        y = attention(x, POSITIONS.to(device), positional)
    expected = reference(attention, options, positional, x, sees).detach()
    assert (y.double() - expected).norm() < 0.02 * expected.norm()


@every_pair
def test_same_seed_gives_the_same_bits(attention, positional):
    """A result that cannot be had twice cannot be compared."""
    attempts = []
    for _ in range(2):
        model = make_gpt(attention, positional)
        init_parameters(model, seed=7)
        tokens = torch.randint(SHAPE.vocab_size, (B, T), generator=torch.Generator().manual_seed(8))
        losses = model(tokens, tokens.roll(-1, 1))
        attempts.append([losses, *torch.autograd.grad(losses.mean(), list(model.parameters()))])
    for first, second in zip(*attempts, strict=True):
        assert torch.equal(first, second)


@every_pair
def test_a_prefix_gets_the_same_outputs_as_in_the_whole(attention, positional):
    """Sampling feeds ever longer prefixes; what was said of the first tokens must not change with those after."""
    attention, positional = make_pair(attention, positional)
    x = inputs()
    whole = attention(x, POSITIONS, positional)
    for length in (1, 2, 7, 16):
        part = attention(x[:, :length], POSITIONS[:length], positional)
        torch.testing.assert_close(part, whole[:, :length], atol=1e-6, rtol=1e-5)


# -- decoding --------------------------------------------------------------------------------------------------------


def decode(model, tokens, prompt, length=T, dtype=torch.float32):
    """Return the logits that the cache gives after the prompt and after each token from there on, (B, n, V)."""
    caches = model.caches(len(tokens), length, dtype)
    pieces = [tokens[:, :prompt], *tokens[:, prompt:].split(1, dim=1)]
    return torch.stack([model.next_logits(piece, caches) for piece in pieces], dim=1)


def tokens_of(length, batch=B):
    return torch.randint(
        SHAPE.vocab_size, (batch, length), generator=torch.Generator().manual_seed(9)
    )


@every_device
@every_pair
@torch.no_grad()
def test_the_cache_gives_the_logits_of_the_full_forward_pass(attention, positional, device):
    """Text that a cache makes must be the model's, also past the window and when the ring has turned."""
    model = randomise(make_gpt(attention, positional)).to(device)
    tokens = tokens_of(T).to(device)
    full = model.logits(tokens)
    for prompt in (1, 3, 13, T - 1):
        got = decode(model, tokens, prompt)
        close = 1e-5 if device == "cpu" else 1e-4
        torch.testing.assert_close(got, full[:, prompt - 1 :], atol=close, rtol=close)


@every_pair
@torch.no_grad()
def test_a_cache_that_is_set_back_forgets_its_last_position(attention, positional):
    """The decode probe times one position over and over; each time must find what the first found."""
    model = randomise(make_gpt(attention, positional))
    tokens, caches = tokens_of(T), model.caches(B, T, torch.float32)
    model.next_logits(tokens[:, :9], caches)
    first = model.next_logits(tokens[:, 9:10], caches)
    for cache in caches:
        cache.n_seen -= 1
    assert torch.equal(model.next_logits(tokens[:, 9:10], caches), first)


@every_pair
@torch.no_grad()
def test_decoding_in_bf16_keeps_its_cache_in_bf16_and_is_the_same_but_for_rounding(
    attention, positional
):
    model = randomise(make_gpt(attention, positional))
    tokens = tokens_of(T)
    with torch.autocast("cpu", torch.bfloat16):
        got = decode(model, tokens, 3, dtype=torch.bfloat16).double()
    full = model.logits(tokens)[:, 2:].double()
    assert (got - full).norm() < 0.05 * full.norm()
    caches = [model.caches(B, T, dtype) for dtype in (torch.bfloat16, torch.float32)]
    assert 2 * caches[0][0].nbytes == caches[1][0].nbytes


@every_attention
def test_a_cache_takes_one_position_at_a_time_after_its_prompt(attention):
    layer, positional = make_pair(attention, POSITIONALS[0])
    cache = layer.cache(B, T, torch.device("cpu"), torch.float32)
    layer(inputs()[:, :4], POSITIONS[:4], positional, cache)
    with pytest.raises(ValueError, match="one position at a time"):
        layer(inputs()[:, 4:6], POSITIONS[4:6], positional, cache)


# -- attention -------------------------------------------------------------------------------------------------------


@every_attention
def test_sequences_of_a_batch_do_not_see_each_other(attention):
    attention, positional = make_pair(attention, POSITIONALS[-1])
    x = inputs()
    before = attention(x, POSITIONS, positional)
    x[1] += 1.0
    after = attention(x, POSITIONS, positional)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert (before[1] != after[1]).any(-1).all()


@every_attention
def test_dropout_acts_in_training_alone(attention):
    """An evaluation with dropout would report a loss that the model does not have."""
    dropping = attention.make(dataclasses.replace(SHAPE, dropout=0.5), layer=0)
    plain = attention.make(layer=0)
    dropping.load_state_dict(plain.state_dict())
    positional, x = Positional(SHAPE, None), inputs()
    expected = plain.eval()(x, POSITIONS, positional)
    assert torch.equal(dropping.eval()(x, POSITIONS, positional), expected)
    assert torch.equal(plain.train()(x, POSITIONS, positional), expected)
    zeros = (dropping.train()(x, POSITIONS, positional) == 0).double().mean()
    assert 0.4 < zeros < 0.6


@every_attention
def test_stated_flops_are_those_of_the_linear_layers_and_of_the_visible_keys(attention):
    """A formula that counts what a window hides would flatter its MFU."""
    layer, positional = make_pair(attention, POSITIONALS[0])
    with FlopCounterMode(display=False) as counter:
        layer(inputs(), POSITIONS, positional)
    counts = counter.get_flop_counts()["Global"]
    linear = sum(n for op, n in counts.items() if "mm" in str(op) and "bmm" not in str(op)) / (
        B * T
    )
    stated = layer.flops_per_token(T)
    assert stated > linear > 0
    if isinstance(layer, MultiHead):
        visible = head_seen_by(layer, positional).sum().item() / (T * H)
        assert layer.visible_keys(T) == pytest.approx(visible)
        assert stated == pytest.approx(linear + 4 * C * visible)


@every_attention
def test_a_bias_leaves_attention_in_its_fused_kernel(attention):
    """Outside of it all scores are kept for the backward pass, and alibi seems slow for how a mask was shaped."""
    rope, alibi = named(POSITIONALS, "rope", "alibi")
    if not fit(attention, alibi):
        pytest.skip("takes no bias")
    ran = []
    for positional in (rope, alibi):
        layer, positional = make_pair(attention, positional)
        with FlopCounterMode(display=False, custom_mapping=CPU_KERNELS) as counter:
            layer(inputs(), POSITIONS, positional)
        ran.append(
            {str(op).removeprefix("aten.") for op in counter.get_flop_counts()["Global"]}
            - {"mm", "addmm"}
        )
    assert ran[0] == ran[1]
    if str(attention) == "mha()":
        assert ran[0] == {"_scaled_dot_product_flash_attention_for_cpu"}


# -- positional ------------------------------------------------------------------------------------------------------


def apply(positional, positions, x_BTC):
    """Return what the positional makes of embeddings and of queries and keys that stand at `positions`."""
    heads = x_BTC.view(len(x_BTC), -1, H, D).transpose(1, 2)
    q, k = positional.rotate(heads, 2 * heads[:, :2], positions)
    return positional.embed(x_BTC, positions), q.transpose(1, 2), k.transpose(1, 2)


@every_positional
def test_positional_is_a_function_of_positions_and_not_of_length_or_order(positional):
    """Blocks, a key-value cache and a sharded sequence give positions of their own; each must mean the same there."""
    positional, x = randomise(positional.make()), inputs()
    whole, bias = apply(positional, POSITIONS, x), positional.bias(POSITIONS, POSITIONS)
    for index in (torch.arange(7, 15), torch.tensor([23, 0, 11]), torch.tensor([5])):
        for part, expected in zip(apply(positional, index, x[:, index]), whole, strict=True):
            torch.testing.assert_close(part, expected[:, index])
        if bias is not None:
            part = positional.bias(index, POSITIONS[3:9])
            torch.testing.assert_close(part, bias[..., index, 3:9])


@every_positional
def test_positional_keeps_shapes_and_precision(positional):
    """A positional that turns bf16 into fp32 makes attention leave its fast kernel."""
    positional = randomise(positional.make()).bfloat16()
    x = inputs().bfloat16()
    embedded, q, k = apply(positional, POSITIONS, x)
    assert (embedded.shape, q.shape, k.shape) == ((B, T, C), (B, T, H, D), (B, T, 2, D))
    assert embedded.dtype == q.dtype == k.dtype == torch.bfloat16


@every_positional
def test_positional_says_truly_whether_it_has_a_bias(positional):
    """The study refuses pairs by `has_bias`; a bias that is not declared would be dropped in silence."""
    positional = positional.make()
    bias = positional.bias(POSITIONS, POSITIONS[:5])
    assert (bias is not None) == positional.has_bias
    if bias is not None:
        assert bias.shape in ((H, T, 5), (1, T, 5))
        blocks = positional.bias(POSITIONS.view(3, 8), POSITIONS.view(3, 8))
        assert blocks.shape[0] == 3
        for n in range(3):
            torch.testing.assert_close(
                blocks[n], positional.bias(POSITIONS.view(3, 8)[n], POSITIONS.view(3, 8)[n])
            )


@every_positional
def test_positional_says_truly_whether_it_reaches_beyond_the_trained_length(positional):
    positional, beyond = randomise(positional.make()), torch.arange(T, 2 * T)
    if positional.extrapolates:
        for value in apply(positional, beyond, inputs()):
            assert value.isfinite().all()
    else:
        with pytest.raises(IndexError):
            apply(positional, beyond, inputs())


# -- norm x mlp ------------------------------------------------------------------------------------------------------


@every_whole
def test_a_whole_model_sees_no_later_token_and_trains_all_it_has(attention, positional, norm, mlp):
    """A norm over the sequence, or a gate from the next position, would give a wonderful loss that is worthless."""
    grad = token_influence(randomise(make_gpt(attention, positional, norm, mlp)))
    assert not grad.triu(1).any(), "an output depends on a later token"
    assert (grad.tril() > 0).sum() == T * (T + 1) // 2, (
        "an output does not depend on a token before it"
    )

    model, tokens = make_gpt(attention, positional, norm, mlp), tokens_of(T)
    init_parameters(model, seed=0)
    model(tokens, tokens.roll(-1, 1)).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@every_whole
def test_a_whole_model_has_the_same_bits_for_the_same_seed_and_decodes_what_it_is(
    attention, positional, norm, mlp
):
    first, second = (make_gpt(attention, positional, norm, mlp) for _ in range(2))
    tokens = tokens_of(T)
    with torch.no_grad():
        for model in (first, second):
            init_parameters(model, seed=7)
        full = first.logits(tokens)
        assert torch.equal(full, second.logits(tokens))
        torch.testing.assert_close(decode(first, tokens, 3), full[:, 2:], atol=1e-5, rtol=1e-5)


@every_whole
@torch.no_grad()
def test_a_whole_model_in_bf16_is_the_same_but_for_rounding(attention, positional, norm, mlp):
    """A part that mixes precisions leaves its fast kernel, which PyTorch says in a warning: an error here."""
    model, tokens = randomise(make_gpt(attention, positional, norm, mlp)), tokens_of(T)
    full = model.logits(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.logits(tokens)
    assert (rounded - full).norm() < 0.05 * full.norm()


def acts_on_each_position_alone(part):
    x = inputs()
    whole = part(x)
    assert whole.shape == x.shape
    torch.testing.assert_close(part(x[1:2, 7:8]), whole[1:2, 7:8], atol=1e-5, rtol=1e-5)
    x[:, 7] += 1.0
    changed = (part(x) != whole).any(-1)
    assert torch.equal(changed, (POSITIONS == 7).expand(B, T))


@every_norm
def test_a_norm_acts_on_each_position_alone_and_begins_without_a_gain(norm):
    norm = norm.make()
    acts_on_each_position_alone(randomise(norm))
    init_parameters(nn.ModuleDict({"it": norm}), seed=0)
    assert norm(100 * inputs()).square().mean(-1).sqrt().sub(1).abs().max() < 1e-3


@every_mlp
def test_an_mlp_acts_on_each_position_alone_and_drops_in_training_alone(mlp):
    acts_on_each_position_alone(randomise(mlp.make()))
    dropping, plain, x = mlp.make(dataclasses.replace(SHAPE, dropout=0.5)), mlp.make(), inputs()
    dropping.load_state_dict(plain.state_dict())
    expected = plain.eval()(x)
    assert torch.equal(dropping.eval()(x), expected) and torch.equal(plain.train()(x), expected)
    assert 0.4 < (dropping.train()(x) == 0).double().mean() < 0.6


@every_mlp
def test_stated_flops_of_an_mlp_are_those_that_are_counted(mlp):
    """A gate that costs a third matrix product and isn't counted would look like a better use of the machine."""
    mlp = mlp.make()
    with FlopCounterMode(display=False) as counter:
        mlp(inputs())
    assert mlp.flops_per_token() == counter.get_total_flops() / (B * T) > 0


# -- gradients and compilation ---------------------------------------------------------------------------------------

SMALL = ModelShape(
    n_layer=2, n_head=4, n_embd=16, seq_len=7, vocab_size=5
)  # 5 does not divide it, heads are 4 wide


def check_gradients(module, call, *inputs):
    """Compare all gradients, those of the parameters too, with differences in float64."""
    names = [name for name, _ in module.named_parameters()]
    point = [x.double() for x in inputs] + [p.detach().double() for p in module.parameters()]

    def outputs(*values):
        given, parameters = (
            values[: len(inputs)],
            dict(zip(names, values[len(inputs) :], strict=True)),
        )
        made = call(lambda *args: torch.func.functional_call(module, parameters, args), *given)
        return tuple(y for y in made if y is not None and y.requires_grad)

    assert gradcheck(outputs, [x.requires_grad_() for x in point], fast_mode=True)


def make_small(case, **kwargs):
    if not case.trouble and case.cls.check(SMALL, case.options):
        pytest.skip("check() refuses the small shape")
    return randomise(case.make(SMALL, **kwargs)).double()


@every_attention
def test_gradients_of_attention_are_those_of_differences(attention):
    """A backward pass that is wrong in one term still trains, only worse, and the variant takes the blame."""
    module, positions = make_small(attention, layer=0), torch.arange(SMALL.seq_len)
    positional = (
        DistanceBias(SMALL, None) if attention.cls.supports_bias else Positional(SMALL, None)
    )
    positional = randomise(positional).double().requires_grad_(False)
    x = inputs(3, 2, SMALL.seq_len, SMALL.n_embd)
    check_gradients(module, lambda call, x: [call(x, positions, positional)], x)


class Places(nn.Module):
    """Calls a positional in all three places, as a module so that its parameters can be given."""

    def __init__(self, positional):
        super().__init__()
        self.positional = positional

    def forward(self, x, q, k, positions):
        it = self.positional
        return it.embed(x, positions), *it.rotate(q, k, positions), it.bias(positions, positions)


@every_positional
def test_gradients_of_a_positional_are_those_of_differences(positional):
    """One that brings a backward pass of its own must turn gradients as it turned what they belong to."""
    T, H, D = SMALL.seq_len, SMALL.n_head, SMALL.head_dim
    sizes = (2, T, SMALL.n_embd), (2, H, T, D), (2, 2, T, D)
    check_gradients(
        Places(make_small(positional)),
        lambda call, x, q, k: call(x, q, k, torch.arange(T)),
        *(inputs(seed, *size) for seed, size in enumerate(sizes)),
    )


@pytest.mark.parametrize("part", [*NORMS, *MLPS], ids=str)
def test_gradients_of_norm_and_mlp_are_those_of_differences(part):
    check_gradients(
        make_small(part), lambda call, x: [call(x)], inputs(3, 2, SMALL.seq_len, SMALL.n_embd)
    )


def compiled_blocks():
    """Yield blocks such that every variant is in one of them; each takes almost a second."""
    attentions = [
        *named(ATTENTIONS, *registry.files("attention")),
        *(a for a in VARIED_ATTENTIONS if a.name == "mha"),
    ]
    positionals = [*cases("positional"), *(p for p in VARIED_POSITIONALS if p.name == "rope")]
    n = max(map(len, (attentions, positionals, NORMS, MLPS)))
    for block in itertools.islice(
        zip(*map(itertools.cycle, (attentions, positionals, NORMS, MLPS)), strict=True), n
    ):
        yield from (
            (*allowed, *block[2:])
            for allowed in pair(block[:1], block[1:2]) or pair(block[:1], PLAIN)
        )


@pytest.mark.filterwarnings(
    "ignore:.*torch.autograd.function.Function.*should not be instantiated:DeprecationWarning"
)
@pytest.mark.parametrize(
    ("attention", "positional", "norm", "mlp"), list(compiled_blocks()), ids=str
)
def test_a_block_compiles_whole_and_stays_what_it_is(attention, positional, norm, mlp):
    """`compile = true` compiles blocks; where one falls apart, a variant is slower for a reason that is not its own."""
    model, outcomes = randomise(make_gpt(attention, positional, norm, mlp)), []
    block, positional = model.h[0], model.positional
    torch._dynamo.reset()
    for run in (block, torch.compile(block, backend="aot_eager", fullgraph=True, dynamic=False)):
        x = inputs().requires_grad_()
        y = run(x, POSITIONS, positional)
        outcomes.append([y, *torch.autograd.grad((y * inputs(6)).sum(), [x, *block.parameters()])])
    for plain, compiled in zip(*outcomes, strict=True):
        torch.testing.assert_close(compiled, plain, atol=1e-4, rtol=1e-4)


# -- starting from a checkpoint --------------------------------------------------------------------------------------

PARTS = {
    "attention": [*ATTENTIONS, *VARIED_ATTENTIONS],
    "positional": [*cases("positional"), *VARIED_POSITIONALS],
    "norm": NORMS,
    "mlp": MLPS,
}
every_part = pytest.mark.parametrize(
    ("axis", "case"), [(axis, case) for axis, given in PARTS.items() for case in given], ids=str
)


def part_of(axis, case, seed):
    part = case.make(**({"layer": 0} if axis == "attention" else {}))
    init_parameters(nn.ModuleDict({"it": part}), seed)
    return part, {name: value.detach().clone() for name, value in part.named_parameters()}


@every_part
def test_a_part_that_starts_from_its_like_is_taken_over_whole(axis, case):
    """What a checkpoint held and a run left behind would be reported as the cost of going on."""
    part, fresh = part_of(axis, case, 0)
    theirs = part_of(axis, case, 1)[1]
    adopted = part.load_from(theirs, fresh)
    assert {name: a.origin for name, a in adopted.items()} == dict.fromkeys(fresh, "loaded")
    assert all(torch.equal(a.values, theirs[name]) for name, a in adopted.items())


@every_part
def test_a_part_that_starts_from_another_variant_uses_its_matrices_or_refuses(axis, case):
    """A matrix that is silently drawn afresh turns uptraining into training, and the comparison into nonsense.

    Positionals have nothing in common: a table may be fresh where the other has none to give, and is reported as such.
    """
    part, fresh = part_of(axis, case, 0)
    for other in PARTS[axis]:
        theirs = part_of(axis, other, 1)[1]
        try:
            adopted = part.load_from(theirs, fresh)
        except ValueError:
            continue
        for name, a in adopted.items():
            assert a.values.shape == fresh[name].shape, f"{name}, from {other}"
        left = {name for name, value in fresh.items() if value.ndim > 1} - adopted.keys()
        assert not left or axis == "positional", f"silently fresh, from {other}: {sorted(left)}"


def test_every_axis_of_parts_is_held_to_it():
    assert {axis for axis, about in AXES.items() if issubclass(about.base, Part)} == PARTS.keys()


# -- all axes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", AXES)
def test_each_axis_has_its_default_and_only_variants_of_its_kind(axis):
    assert AXES[axis].default in registry.files(axis)
    for name in registry.files(axis):
        cls = registry.load(axis, name)
        assert issubclass(cls, AXES[axis].base)
        assert cls.Options.__dataclass_params__.frozen, (
            f"{name}: options must not change after parsing"
        )


@pytest.mark.parametrize("axis", PARTS)
def test_every_option_is_tried_at_another_value(axis):
    """Nothing is wrong with a new option that isn't; it is only untested, which should be seen."""
    tried = [*cases(axis), *varied(axis)]
    untried = []
    for cls in {case.cls for case in tried}:
        for option in dataclasses.fields(cls.Options):
            values = [
                getattr(case.options, option.name)
                for case in tried
                if case.cls is cls and case.options
            ]
            if not option.metadata.get("conversion") and all(
                value == option.default for value in values
            ):
                untried.append(f"{cls.__name__}.{option.name}")
    if untried:
        pytest.skip(f"no case changes {', '.join(sorted(untried))}: add a value to VARIATIONS")


def test_a_variant_without_a_sample_for_its_option_is_told_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "attention").mkdir()
    (tmp_path / "attention" / "odd.py").write_text(
        "from dataclasses import dataclass\n"
        "from variants.attention.mha import MultiHead\n"
        "class Odd(MultiHead):\n"
        "    @dataclass(frozen=True)\n"
        "    class Options:\n"
        "        n_odd: int\n"
    )
    (cls,) = [registry.load("attention", "odd", [tmp_path])]
    monkeypatch.setattr(registry, "files", lambda axis: {"odd": tmp_path / "attention" / "odd.py"})
    monkeypatch.setattr(registry, "load", lambda axis, name: cls)
    (case,) = cases("attention")
    with pytest.raises(
        pytest.fail.Exception, match=r"odd.py: \['n_odd'\] has no default; add a sample"
    ):
        case.make(layer=0)
