"""One contract for every variant that lies in the folders. A variant added tomorrow is held to it as it stands.

Only a variant whose option has no default needs something here: values to try, in `SAMPLES`, by the option's name.
"""

import dataclasses
import itertools
import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from harness.worker.build import Parts
from harness.worker.initial import fill
from harness.worker.model import GPT
from variants import catalogue
from variants.api import AXES, Initial, Positional, Shape
from variants.attention.mha import MultiHead

SHAPE = Shape(n_layer=2, n_head=4, n_embd=32, seq_len=24, vocab_size=13)
T, C, H, D = SHAPE.seq_len, SHAPE.n_embd, SHAPE.n_head, SHAPE.head_dim
B = 3
SAMPLES = {  # values to try, alone or, where an option has no default, with all others at their defaults
    "n_kv_head": (2,),
    "window": (1, 5, 8, 24, 100),  # 5 does not divide T, 24 is T, 100 is more
}


class DistanceBias(Positional):
    """A bias for each head that falls with distance, as ALiBi's (Press et al. 2022), with slopes that are trained."""

    uses_bias = True

    def __init__(self, shape, options):
        super().__init__(shape, options)
        self.slope = nn.Parameter(0.5 ** torch.arange(1.0, shape.n_head + 1))

    def initial(self):
        return {"slope": Initial(std=1.0)}

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
        values = "-".join(str(value) for value in vars(self.options).values()) if self.options else ""
        return f"{self.name}({values})"

    def make(self, shape=SHAPE, **kwargs):
        if self.trouble:
            pytest.fail(self.trouble)
        return self.cls(shape, self.options, **kwargs)


def cases(axis):
    for name, file in catalogue.files(axis).items():
        cls = catalogue.load(axis, name)
        fields = dataclasses.fields(cls.Options)
        required = [f for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
        if missing := [f.name for f in required if f.name not in SAMPLES]:
            yield Case(
                name, cls, trouble=f"{file.name}: {missing} has no default; add a sample to SAMPLES in {__file__}"
            )
            continue
        sampled = [f.name for f in fields if f.name in SAMPLES]
        candidates = [
            cls.Options(**dict(zip(sampled, values, strict=True)))
            for values in itertools.product(*(SAMPLES[name] for name in sampled))
        ]
        possible = [Case(name, cls, options) for options in candidates if not cls.check(SHAPE, options)]
        refused = f"{file.name}: check() refuses every sample; add one to SAMPLES in {__file__}"
        yield from possible or [Case(name, cls, trouble=refused)]


ATTENTIONS = list(cases("attention"))
POSITIONALS = [*cases("positional"), Case("distance_bias", DistanceBias, DistanceBias.Options())]
PAIRS = [
    pytest.param(attention, positional, id=f"{attention}-{positional}")
    for attention, positional in itertools.product(ATTENTIONS, POSITIONALS)
    if attention.cls.takes_bias or not positional.cls.uses_bias
]
every_pair = pytest.mark.parametrize(("attention", "positional"), PAIRS)
every_attention = pytest.mark.parametrize("attention", ATTENTIONS, ids=str)
every_positional = pytest.mark.parametrize("positional", POSITIONALS, ids=str)
needs_gpu = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
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


def make_gpt(attention, positional, shape=SHAPE):
    parts = Parts(shape, {}, [])
    parts.positional, parts.attention = lambda: positional.make(shape), lambda layer: attention.make(shape, layer=layer)
    return GPT(shape, parts)


def inputs(seed=3):
    return torch.randn(B, T, C, generator=torch.Generator().manual_seed(seed))


def influence(outputs_of, x_1TC):
    """Return |d output t / d input s| as (t, s): row t of the batch is asked for its output t alone."""
    x = x_1TC.detach().expand(T, -1, -1).clone().requires_grad_()
    own = outputs_of(x)[POSITIONS, POSITIONS]
    (own * torch.randn(own.shape, generator=torch.Generator().manual_seed(4))).sum().backward()
    return x.grad.abs().amax(-1)


def seen_by(attention, positional):
    """Return which key s a query t sees in one layer, (t, s), as its gradient tells."""
    return influence(lambda x: attention(x, POSITIONS, positional), inputs()[:1]) > 0


def reference(attention, positional, x_BTC, sees):
    """Softmax attention over the visible keys, query by query, in float64, from the parameters alone."""
    p = {name: value.double() for name, value in attention.named_parameters()}
    n_kv_head = (len(p["c_attn.bias"]) - C) // (2 * D)
    projected = x_BTC.double() @ p["c_attn.weight"].T + p["c_attn.bias"]
    q, k, v = projected.split((C, n_kv_head * D, n_kv_head * D), dim=-1)
    q, k, v = (z.reshape(len(z), T, -1, D).transpose(1, 2) for z in (q, k, v))
    positions = POSITIONS.to(x_BTC.device)
    q, k = positional.rotate(q, k, positions)
    bias = positional.bias(positions, positions)
    bias = torch.zeros(H, T, T, device=q.device) if bias is None else bias.double().expand(H, T, T)
    rows = []
    for b, t, h in itertools.product(range(len(x_BTC)), range(T), range(H)):
        group, keys = h * n_kv_head // H, sees[t].nonzero()[:, 0]
        scores = k[b, group, keys] @ q[b, h, t] / math.sqrt(D) + bias[h, t, keys]
        weights = scores.exp() / scores.exp().sum()
        rows.append(weights @ v[b, group, keys])
    return torch.cat(rows).view(len(x_BTC), T, C) @ p["c_proj.weight"].T + p["c_proj.bias"]


def need_reference(module):
    if {name for name, _ in module.named_parameters()} != {
        f"c_{x}.{y}" for x in ("attn", "proj") for y in ("weight", "bias")
    }:
        pytest.skip("has other parameters than GPT-2's attention: write its own reference beside it")


# -- attention x positional ------------------------------------------------------------------------------------------


@every_pair
def test_no_output_sees_a_later_token_and_each_sees_what_its_layers_reach(attention, positional):
    """A model that peeks ahead has a wonderful loss and is worthless; one that sees less is not what it is called."""
    one_layer = seen_by(*make_pair(attention, positional)).double()
    reach = torch.linalg.matrix_power(one_layer, SHAPE.n_layer) > 0
    model = randomise(make_gpt(attention, positional))
    tokens = torch.randint(SHAPE.vocab_size, (1, T), generator=torch.Generator().manual_seed(5))

    def logits(x):
        hook = model.wte.register_forward_hook(lambda *_: x)
        try:
            return model.logits(tokens.expand(T, T))
        finally:
            hook.remove()

    grad = influence(logits, model.wte(tokens))
    assert grad.shape == (T, T)
    assert not grad.triu(1).any(), "an output depends on a later token"
    assert (grad.diagonal() > 0).all(), "an output does not depend on its own token"
    assert torch.equal(grad > 0, reach)


@every_pair
def test_logits_have_their_shape_and_all_gradients_are_finite(attention, positional):
    """A parameter without a gradient never trains; a NaN in one ends the run."""
    model = make_gpt(attention, positional)
    fill(model, seed=0)
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
    attention, positional = make_pair(attention, positional)
    need_reference(attention)
    sees = seen_by(attention, positional).to(device)
    attention, positional = attention.to(device), positional.to(device)
    parameters = [*attention.parameters(), *(p for p in positional.parameters() if positional.uses_bias)]
    x, probe = inputs().to(device).requires_grad_(), inputs(6).to(device)

    y = attention(x, POSITIONS.to(device), positional)
    expected = reference(attention, positional, x, sees)
    close = 1e-5 if device == "cpu" else 1e-4
    torch.testing.assert_close(y.double(), expected, atol=close, rtol=close)

    wanted = [x, *parameters]
    got = torch.autograd.grad((y * probe).sum(), wanted)
    for found, right in zip(got, torch.autograd.grad((expected * probe).sum(), wanted), strict=True):
        torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-4)


@every_device
@every_pair
def test_bf16_is_the_plain_formula_but_for_rounding(attention, positional, device):
    attention, positional = make_pair(attention, positional)
    need_reference(attention)
    sees = seen_by(attention, positional).to(device)
    attention, positional, x = attention.to(device), positional.to(device), inputs().to(device)
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        y = attention(x, POSITIONS.to(device), positional)
    expected = reference(attention, positional, x, sees).detach()
    assert (y.double() - expected).norm() < 0.02 * expected.norm()


@every_pair
def test_same_seed_gives_the_same_bits(attention, positional):
    """A result that cannot be had twice cannot be compared."""
    attempts = []
    for _ in range(2):
        model = make_gpt(attention, positional)
        fill(model, seed=7)
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
    return torch.randint(SHAPE.vocab_size, (batch, length), generator=torch.Generator().manual_seed(9))


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
def test_decoding_in_bf16_keeps_its_cache_in_bf16_and_is_the_same_but_for_rounding(attention, positional):
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
    linear = sum(n for op, n in counts.items() if "mm" in str(op) and "bmm" not in str(op)) / (B * T)
    stated = layer.flops_per_token(T)
    assert stated > linear > 0
    if isinstance(layer, MultiHead):
        visible = seen_by(layer, positional).sum().item() / T
        assert layer.visible_keys(T) == pytest.approx(visible)
        assert stated == pytest.approx(linear + 4 * C * visible)


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
    """The study refuses pairs by `uses_bias`; a bias that is not declared would be dropped in silence."""
    positional = positional.make()
    bias = positional.bias(POSITIONS, POSITIONS[:5])
    assert (bias is not None) == positional.uses_bias
    if bias is not None:
        assert bias.shape in ((H, T, 5), (1, T, 5))
        blocks = positional.bias(POSITIONS.view(3, 8), POSITIONS.view(3, 8))
        assert blocks.shape[0] == 3
        for n in range(3):
            torch.testing.assert_close(blocks[n], positional.bias(POSITIONS.view(3, 8)[n], POSITIONS.view(3, 8)[n]))


@every_positional
def test_positional_says_truly_whether_it_reaches_beyond_the_trained_length(positional):
    positional, beyond = randomise(positional.make()), torch.arange(T, 2 * T)
    if positional.extends:
        for value in apply(positional, beyond, inputs()):
            assert value.isfinite().all()
    else:
        with pytest.raises(IndexError):
            apply(positional, beyond, inputs())


# -- all axes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", AXES)
def test_each_axis_has_its_default_and_only_variants_of_its_kind(axis):
    assert AXES[axis].default in catalogue.files(axis)
    for name in catalogue.files(axis):
        cls = catalogue.load(axis, name)
        assert issubclass(cls, AXES[axis].base)
        assert cls.Options.__dataclass_params__.frozen, f"{name}: options must not change after parsing"


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
    (cls,) = [catalogue.load("attention", "odd", [tmp_path])]
    monkeypatch.setattr(catalogue, "files", lambda axis: {"odd": tmp_path / "attention" / "odd.py"})
    monkeypatch.setattr(catalogue, "load", lambda axis, name: cls)
    (case,) = cases("attention")
    with pytest.raises(pytest.fail.Exception, match=r"odd.py: \['n_odd'\] has no default; add a sample"):
        case.make(layer=0)
