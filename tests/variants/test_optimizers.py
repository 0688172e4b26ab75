"""Each optimizer's steps equal its authors' formula, computed here in float64 with NumPy."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from harness.results.records import TrainSettings
from harness.training import optimizer as optim
from variants import registry
from variants.base import ModelShape
from variants.optimizer.muon import orthogonalize
from variants.parameters import OptimizerDefaults, ParameterInfo, TrainedParameter

SHAPE = ModelShape(n_layer=1, n_head=1, n_embd=4, seq_len=4, vocab_size=4)
N_STEPS = 6
TRAIN = TrainSettings(
    steps=N_STEPS,
    tokens_per_step=8,
    lr=3e-2,
    min_lr=1e-3,
    warmup_steps=2,
    beta1=0.8,
    beta2=0.9,
    weight_decay=0.2,
)
SIZES = {  # kind, size, rows of logical blocks
    "qkv": ("matrix", (12, 5), (4, 4, 4)),
    "gqa": ("matrix", (10, 6), (6, 2, 2)),
    "tall": ("matrix", (16, 3), ()),
    "wide": ("matrix", (3, 8), ()),
    "experts": ("matrix", (2, 6, 4), ()),
    "wte": ("embedding", (7, 4), ()),
    "gain": ("vector", (9,), ()),
}
NAMES = sorted(registry.files("optimizer"))


def random(size, seed):
    return 0.3 * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def parameters():
    made = []
    for i, (name, (kind, size, blocks)) in enumerate(SIZES.items()):
        info = ParameterInfo(name, kind, torch.Size(size), blocks)
        made.append(TrainedParameter(info, nn.Parameter(random(size, i))))
    return made


def variant(name, **options):
    cls = registry.load("optimizer", name)
    defaults = {field: getattr(TRAIN, field) for field in OptimizerDefaults.__annotations__}
    return cls(cls.Options(**options), OptimizerDefaults(**defaults))


def make(name, given, **options):
    """Return the torch optimizer of these parameters, as a run makes it."""
    made = variant(name, **options).make(given)
    for group in made.param_groups:
        group[optim.PEAK] = group["lr"]
    return made


def steps(made, given):
    """Make every step of TRAIN; yield its number, from 1, the gradients and the values before."""
    for step in range(N_STEPS):
        grads = {}
        before = {}
        for i, parameter in enumerate(given):
            grad = random(parameter.info.size, 100 * step + i)
            parameter.value.grad = grad
            grads[parameter.info.name] = grad.double().numpy()
            before[parameter.info.name] = parameter.value.detach().double().numpy()
        optim.set_learning_rate(made, step, TRAIN)
        made.step()
        yield step, grads, before


# -- the authors' formulas -------------------------------------------------------------------------


def rate(step, peak):
    """Two steps of warm-up, then a cosine to 1/30 of the peak."""
    if step < 2:
        return peak * (step + 1) / 3
    return peak * (1 / 30 + (1 - 1 / 30) * 0.5 * (1 + np.cos(np.pi * (step - 2) / 4)))


def decayed(value, lr, kind):
    return value * (1 - lr * 0.2) if kind != "vector" else value


class AdamWFormula:
    """Loshchilov & Hutter 2019, algorithm 2."""

    def __init__(self, peak=3e-2, beta1=0.8, beta2=0.9):
        self.peak, self.beta1, self.beta2 = peak, beta1, beta2
        self.m = self.v = 0.0

    def __call__(self, step, value, g, kind, blocks):
        lr = rate(step, self.peak)
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.v = self.beta2 * self.v + (1 - self.beta2) * g**2
        m_hat = self.m / (1 - self.beta1 ** (step + 1))
        v_hat = self.v / (1 - self.beta2 ** (step + 1))
        return decayed(value, lr, kind) - lr * m_hat / (np.sqrt(v_hat) + 1e-8)


class SGDFormula:
    """Loshchilov & Hutter 2019, algorithm 1, with constant momentum, as in PyTorch."""

    def __init__(self, peak=3e-2, momentum=0.9, nesterov=False):
        self.peak, self.momentum, self.nesterov = peak, momentum, nesterov
        self.m = 0.0

    def __call__(self, step, value, g, kind, blocks):
        lr = rate(step, self.peak)
        self.m = self.momentum * self.m + g
        direction = g + self.momentum * self.m if self.nesterov else self.m
        return decayed(value, lr, kind) - lr * direction


class LionFormula:
    """Chen et al. 2023, algorithm 2."""

    def __init__(self, peak=3e-2, beta1=0.9, beta2=0.99):
        self.peak, self.beta1, self.beta2 = peak, beta1, beta2
        self.m = 0.0

    def __call__(self, step, value, g, kind, blocks):
        lr = rate(step, self.peak)
        c = self.beta1 * self.m + (1 - self.beta1) * g
        self.m = self.beta2 * self.m + (1 - self.beta2) * g
        return decayed(value, lr, kind) - lr * np.sign(c)


class AdafactorFormula:
    """Shazeer & Stern 2018, algorithms 4 and 5, with means, and decoupled weight decay."""

    def __init__(self, peak=3e-2, clip=1.0, decay=0.8, relative=False):
        self.peak, self.clip, self.decay, self.relative = peak, clip, decay, relative
        self.rows = self.columns = self.v = 0.0

    def __call__(self, step, value, g, kind, blocks):
        lr = rate(step, self.peak)
        new = (step + 1) ** -self.decay
        size = min(lr, (step + 1) ** -0.5)
        if self.relative:
            size *= max(1e-3, np.sqrt(np.mean(value**2)))
        if g.ndim > 1:
            self.rows = (1 - new) * self.rows + new * np.mean(g**2, -1, keepdims=True)
            self.columns = (1 - new) * self.columns + new * np.mean(g**2, -2, keepdims=True)
            v = self.rows * self.columns / np.mean(self.rows, -2, keepdims=True)
        else:
            self.v = v = (1 - new) * self.v + new * g**2
        u = g / np.sqrt(v)
        u /= max(1, np.sqrt(np.mean(u**2)) / self.clip)
        return decayed(value, lr, kind) - size * u


def newton_schulz(g, n):
    """Jordan 2024: the quintic iteration, on the wide orientation."""
    if g.ndim == 3:
        return np.stack([newton_schulz(matrix, n) for matrix in g])
    x = g if g.shape[0] <= g.shape[1] else g.T
    x = x / (np.linalg.norm(x) + 1e-7)
    for _ in range(n):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if g.shape[0] <= g.shape[1] else x.T


class MuonFormula:
    """Jordan 2024; `original` is False for the scale of Liu et al. 2025, equation 4."""

    def __init__(self, peak=3e-2, original=False, momentum=0.95, nesterov=True, n=5, apart=True):
        self.peak, self.original, self.n, self.apart = peak, original, n, apart
        self.momentum, self.nesterov = momentum, nesterov
        self.m = 0.0
        self.adamw = AdamWFormula()

    def __call__(self, step, value, g, kind, blocks):
        if kind != "matrix":
            return self.adamw(step, value, g, kind, blocks)
        lr = rate(step, self.peak)
        self.m = self.momentum * self.m + g  # the authors' accumulation, of another length
        direction = g + self.momentum * self.m if self.nesterov else self.m
        ends = np.cumsum(blocks)[:-1] if self.apart else []
        update = []
        for block in np.split(direction, ends):
            rows, columns = block.shape[-2:]
            larger = max(rows, columns)
            scale = np.sqrt(max(1, rows / columns)) if self.original else 0.2 * np.sqrt(larger)
            update.append(scale * newton_schulz(block, self.n))
        return decayed(value, lr, kind) - lr * np.concatenate(update)


CASES = {  # label: options, formula
    "adamw": ({}, AdamWFormula),
    "adamw-own": (
        {"lr": 0.01, "beta1": 0.7, "beta2": 0.95},
        lambda: AdamWFormula(0.01, 0.7, 0.95),
    ),
    "sgd": ({}, SGDFormula),
    "sgd-nesterov": ({"nesterov": True, "momentum": 0.8}, lambda: SGDFormula(3e-2, 0.8, True)),
    "sgd-plain": ({"momentum": 0.0, "lr": 0.1}, lambda: SGDFormula(0.1, 0.0)),
    "lion": ({}, LionFormula),
    "lion-own": ({"lr": 1e-2, "beta1": 0.95, "beta2": 0.98}, lambda: LionFormula(1e-2, 0.95, 0.98)),
    "adafactor": ({}, AdafactorFormula),
    "adafactor-relative": ({"lr": 0.2}, lambda: AdafactorFormula(0.2, relative=True)),
    "adafactor-own": (
        {"scale": "relative", "clip": 2.0, "decay": 0.6},
        lambda: AdafactorFormula(3e-2, 2.0, 0.6, relative=True),
    ),
    "adafactor-absolute": (
        {"lr": 0.01, "scale": "absolute"},
        lambda: AdafactorFormula(0.01),
    ),
    "muon": ({}, MuonFormula),
    "muon-original": ({"lr": 0.02}, lambda: MuonFormula(0.02, original=True)),
    "muon-own": (
        {
            "scale": "original",
            "momentum": 0.8,
            "nesterov": False,
            "n_iterations": 3,
            "separate_blocks": False,
        },
        lambda: MuonFormula(3e-2, True, 0.8, False, 3, False),
    ),
    "muon-rms": (
        {"lr": 0.01, "scale": "match_rms_adamw"},
        lambda: MuonFormula(0.01),
    ),
}


def test_every_optimizer_has_a_formula():
    assert {label.partition("-")[0] for label in CASES} == set(NAMES)


@pytest.mark.parametrize("label", CASES)
def test_each_step_equals_the_authors_formula(label):
    """With warm-up, decay of the rate, and weight decay of all but vectors."""
    options, formula = CASES[label]
    given = parameters()
    made = make(label.partition("-")[0], given, **options)
    formulas = {name: formula() for name in SIZES}
    for step, grads, before in steps(made, given):
        for parameter in given:
            info = parameter.info
            g = grads[info.name]
            value = before[info.name]
            expected = formulas[info.name](step, value, g, info.kind, info.blocks)
            changed = parameter.value.detach().double().numpy()
            np.testing.assert_allclose(changed, expected, atol=1e-6, rtol=0, err_msg=info.name)


@pytest.mark.parametrize("option", ["weight_decay", "adamw_lr"])
def test_other_own_options_replace_those_of_train(option):
    """An option that is ignored would be reported as one that has no effect."""
    for name in NAMES:
        cls = registry.load("optimizer", name)
        if option not in {field.name for field in dataclasses.fields(cls.Options)}:
            continue
        values = []
        for options in ({}, {option: 0.7}):
            given = parameters()
            list(steps(make(name, given, **options), given))
            values.append(torch.cat([parameter.value.flatten() for parameter in given]))
        assert not torch.equal(*values), name


# -- published implementations ---------------------------------------------------------------------


def test_adafactor_equals_pytorchs():
    given = parameters()
    made = make("adafactor", given, lr=0.02, weight_decay=0.1)
    theirs = [nn.Parameter(parameter.value.detach().clone()) for parameter in given]
    published = torch.optim.Adafactor(
        [
            {"params": [p for p in theirs if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in theirs if p.dim() == 1], "weight_decay": 0.0},
        ]
    )
    for step, grads, _ in steps(made, given):
        for group in published.param_groups:
            group["lr"] = rate(step, 0.02)
        for parameter, own in zip(theirs, given, strict=True):
            parameter.grad = torch.from_numpy(grads[own.info.name]).float()
        published.step()
        for parameter, own in zip(theirs, given, strict=True):
            torch.testing.assert_close(own.value, parameter, atol=1e-6, rtol=0)


def test_muon_is_close_to_pytorchs_in_bf16():
    """PyTorch's rounds to bf16 on every device, so that only a wrong formula shows."""
    given = [parameter for parameter in parameters() if parameter.info.name == "wide"]
    made = make("muon", given, lr=0.02, weight_decay=0.1)
    (theirs,) = [nn.Parameter(parameter.value.detach().clone()) for parameter in given]
    published = torch.optim.Muon([theirs], weight_decay=0.1)
    for step, grads, _ in steps(made, given):
        published.param_groups[0]["lr"] = rate(step, 0.02)
        theirs.grad = torch.from_numpy(grads["wide"]).float()
        published.step()
    torch.testing.assert_close(given[0].value, theirs, atol=2e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonalized_matrices_have_equal_singular_values(dtype):
    """Jordan 2024: between 0.7 and 1.2, however small those of the momentum are."""
    matrices = random((3, 24, 16), 0) @ torch.diag(torch.logspace(0, -1.5, 16))
    orthogonal = orthogonalize(matrices, 5, dtype)
    assert orthogonal.dtype == torch.float32
    values = torch.linalg.svdvals(orthogonal)
    assert values.min() > 0.6 and values.max() < 1.25


# -- the contract ----------------------------------------------------------------------------------


def state_size(made, parameter):
    tensors = made.state[parameter.value].values()
    return sum(tensor.nbytes for tensor in tensors if tensor.ndim)


@pytest.mark.parametrize("label", CASES)
def test_predicted_state_is_the_state(label):
    """`list` predicts memory from it, and users choose an optimizer for its memory."""
    options, _ = CASES[label]
    given = parameters()
    name = label.partition("-")[0]
    made = make(name, given, **options)
    list(steps(made, given))
    for parameter in given:
        size = variant(name, **options).state_bytes(parameter.info)
        assert state_size(made, parameter) == size.sharded + size.replicated


@pytest.mark.parametrize("label", CASES)
def test_a_step_at_rate_zero_changes_nothing(label):
    """PyTorch makes one to create the state before it loads a checkpoint."""
    options, _ = CASES[label]
    given = parameters()
    made = make(label.partition("-")[0], given, **options)
    before = [parameter.value.detach().clone() for parameter in given]
    for group in made.param_groups:
        group["lr"] = 0.0
    for parameter in given:
        parameter.value.grad = torch.zeros_like(parameter.value)
    made.step()
    for parameter, value in zip(given, before, strict=True):
        assert torch.equal(parameter.value, value)


def test_the_recorded_rate_is_that_of_the_matrices():
    given = parameters()
    made = make("muon", given, lr=0.02, adamw_lr=0.004)
    assert optim.set_learning_rate(made, 0, TRAIN) == pytest.approx(0.02 / 3)
    rates = dict.fromkeys(SIZES, 0.0)
    names = {id(parameter.value): parameter.info.name for parameter in given}
    for group in made.param_groups:
        for value in group["params"]:
            rates[names[id(value)]] = group["lr"]
    for name, (kind, *_) in SIZES.items():
        assert rates[name] == pytest.approx((0.02 if kind == "matrix" else 0.004) / 3)


def test_momentum_is_needed_for_the_look_ahead():
    cls = registry.load("optimizer", "sgd")
    assert cls.check(SHAPE, cls.Options(nesterov=True)) == {}
    reason = {"nesterov": "true: needs a momentum above 0"}
    assert cls.check(SHAPE, cls.Options(nesterov=True, momentum=0.0)) == reason
