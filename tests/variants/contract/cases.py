"""Every variant of every axis, with options to test it with, and what the contract's tests share.

A new variant is tested without a change here, unless it has an option without a default: add values
to `SAMPLES`, by the option's name. Options with a default are also tested at other values, one at a
time: booleans and literals at all of their values, others at those of `VARIATIONS`.
"""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from harness.contract.decoding import decode as decode_after
from harness.contract.options import samples
from harness.model.builder import ModelBuilder
from harness.model.gpt import GPT
from variants import registry
from variants.base import InitSpec, ModelShape, Positional

SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=32, seq_len=24, vocab_size=13)
T = SHAPE.seq_len
C = SHAPE.n_embd
H = SHAPE.n_head
D = SHAPE.head_dim
B = 3
POSITIONS = torch.arange(T)
SAMPLES = {  # values of options without a default, tested with all others at their defaults
    "n_kv_head": (2,),
    "window": (5, 1, 8, 24, 100),  # 5 does not divide T, 24 is T, 100 is more
}
VARIATIONS = {  # other values, tested one at a time with the first valid sample
    "window": ([8, 5],),
    "layer_pattern": ("LS",),
    "dilation": (3, [1, 2]),
    "head_dilation": ([1, 1, 2, 4],),
    "global_tokens": (2,),
    "logit_softcap": (5.0,),  # near the scores that `randomize` makes
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
REQUIRES = {"scaling": {"factor": 2.0}}  # other options that an option requires


class DistanceBias(Positional):
    """A bias that falls with distance as ALiBi's (Press et al. 2022), but with trained slopes."""

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
    """A variant with options that are valid at SHAPE, or `problem`: why there are none."""

    name: str
    cls: type
    options: object = None
    problem: str = ""

    def __str__(self):
        fields = dataclasses.fields(self.options) if self.options else ()
        values = [
            (field.name, getattr(self.options, field.name), field.default) for field in fields
        ]
        changed = [f"{name}={value}" for name, value, default in values if value != default]
        return f"{self.name}({', '.join(changed)})"

    def make(self, shape=SHAPE, **kwargs):
        if self.problem:
            pytest.fail(self.problem)
        return self.cls(shape, self.options, **kwargs)


def cases(axis):
    """Yield each variant of an axis with all valid combinations of `SAMPLES`."""
    for name, file in registry.files(axis).items():
        cls = registry.load(axis, name)
        fields = dataclasses.fields(cls.Options)
        missing = [
            field.name
            for field in fields
            if field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
            and field.name not in SAMPLES
        ]
        if missing:
            problem = f"{missing} has no default; add a sample to SAMPLES in {__file__}"
            yield Case(name, cls, problem=f"{file.name}: {problem}")
            continue
        sampled = [field.name for field in fields if field.name in SAMPLES]
        valid = []
        for values in itertools.product(*(SAMPLES[option] for option in sampled)):
            options = cls.Options(**dict(zip(sampled, values, strict=True)))
            if not cls.check(SHAPE, options):
                valid.append(Case(name, cls, options))
        problem = f"{file.name}: check() rejects every sample; add one to SAMPLES in {__file__}"
        yield from valid or [Case(name, cls, problem=problem)]


def varied(axis):
    """Yield the first case of each variant with one option changed, if `check` accepts it."""
    for _, (case, *_) in itertools.groupby(cases(axis), key=lambda case: case.name):
        if case.options is None:
            continue
        tried = list(samples(case.cls, case.options, SHAPE, VARIATIONS, REQUIRES))
        yield from (Case(case.name, case.cls, options) for options in tried[1:])


def compatible(attention, positional):
    """Return whether a study accepts the pair; a case with a problem fails in `make`."""
    if attention.problem or positional.problem:
        return True
    width = attention.cls.rotary_dim(SHAPE, attention.options)
    bias_supported = attention.cls.supports_bias or not positional.cls.has_bias
    return bias_supported and not positional.cls.check_rotary(width, positional.options)


def pair(attentions, positionals):
    return [both for both in itertools.product(attentions, positionals) if compatible(*both)]


def named(cases, *names):
    """Return the first case of each name."""
    return [next(case for case in cases if case.name == name) for name in names]


ATTENTIONS = list(cases("attention"))
VARIED_ATTENTIONS = list(varied("attention"))
POSITIONALS = [*cases("positional"), Case("distance_bias", DistanceBias, DistanceBias.Options())]
VARIED_POSITIONALS = list(varied("positional"))
NORMS = [*cases("norm"), *varied("norm")]
MLPS = [*cases("mlp"), *varied("mlp")]
PARTS = {
    "attention": [*ATTENTIONS, *VARIED_ATTENTIONS],
    "positional": [*cases("positional"), *VARIED_POSITIONALS],
    "norm": NORMS,
    "mlp": MLPS,
}
BOTH_KINDS = named(POSITIONALS, "rope", "distance_bias")  # without and with a bias
PAIRS = [
    *pair(ATTENTIONS, POSITIONALS),
    *pair(VARIED_ATTENTIONS, BOTH_KINDS),
    *pair(named(ATTENTIONS, "mha", "sliding_window"), VARIED_POSITIONALS),
]
KINDS = pair([*ATTENTIONS, *VARIED_ATTENTIONS], BOTH_KINDS)
WITH_MHA = pair(named(ATTENTIONS, "mha"), [*POSITIONALS, *VARIED_POSITIONALS])
EACH = [*KINDS, *(both for both in WITH_MHA if both not in KINDS)]
MODELS = [
    (*around, *within)
    for around in (
        *pair(named(ATTENTIONS, "mha"), named(POSITIONALS, "learned")),
        *pair(named(ATTENTIONS, "gqa"), named(POSITIONALS, "rope")),
    )
    for within in itertools.product(NORMS, MLPS)
]
DEVICES = ["cpu"]
if torch.cuda.is_available():
    DEVICES.append(pytest.param("cuda", marks=pytest.mark.cuda))

# What depends on the pair: which keys are visible, and how the bias and the rotation reach kernel
# and cache.
every_pair = pytest.mark.parametrize(("attention", "positional"), PAIRS, ids=str)
# What depends on the attention, and on whether there is a bias.
every_kind = pytest.mark.parametrize(("attention", "positional"), KINDS, ids=str)
# What depends on each of them separately.
each_variant = pytest.mark.parametrize(("attention", "positional"), EACH, ids=str)
every_attention = pytest.mark.parametrize("attention", PARTS["attention"], ids=str)
every_positional = pytest.mark.parametrize(
    "positional", [*POSITIONALS, *VARIED_POSITIONALS], ids=str
)
every_norm = pytest.mark.parametrize("norm", NORMS, ids=str)
every_mlp = pytest.mark.parametrize("mlp", MLPS, ids=str)
every_model = pytest.mark.parametrize(("attention", "positional", "norm", "mlp"), MODELS, ids=str)
every_device = pytest.mark.parametrize("device", DEVICES)


def randomize(module, seed=0):
    """Give parameters large values; GPT-2's would hide a wrong scale, order or mask."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return module


def make_pair(attention, positional):
    return randomize(attention.make(layer=0), 1), randomize(positional.make(), 2)


def make_gpt(attention, positional, norm=None, mlp=None, shape=SHAPE):
    parts = ModelBuilder(shape, {}, [])
    parts.positional = lambda: positional.make(shape)
    parts.attention = lambda layer: attention.make(shape, layer=layer)
    if norm is not None:
        parts.norm = lambda: norm.make(shape)
        parts.mlp = lambda: mlp.make(shape)
    return GPT(shape, parts)


def inputs(seed=3, *size):
    return torch.randn(size or (B, T, C), generator=torch.Generator().manual_seed(seed))


def tokens_of(length, batch=B):
    generator = torch.Generator().manual_seed(9)
    return torch.randint(SHAPE.vocab_size, (batch, length), generator=generator)


def decode(model, tokens, prompt, length=T, dtype=torch.float32):
    """Return the logits of the cache after the prompt and after each further token, (B, n, V)."""
    return decode_after(model, tokens, prompt, length, dtype)


def influence(outputs_of, x_1TC):
    """Return |d output t / d input s| as (t, s); row t of the batch computes output t."""
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
    """Return which keys s a query t sees in one layer by gradient, (t, s)."""
    return influence(lambda x: attention(x, POSITIONS, positional), inputs()[:1]) > 0


def head_seen_by(attention, positional):
    """Return which keys s a query t sees in each head, (H, t, s), from the input of `c_proj`."""
    heads = []
    hook = attention.c_proj.register_forward_pre_hook(
        lambda _, args: heads.append(args[0].unflatten(-1, (H, D)))
    )

    def output(x, h):
        attention(x, POSITIONS, positional)
        return heads.pop()[..., h, :]

    try:
        seen = [influence(lambda x, h=h: output(x, h), inputs()[:1]) > 0 for h in range(H)]
        return torch.stack(seen)
    finally:
        hook.remove()
