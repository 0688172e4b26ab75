"""Optimizer steps, weight decay, learning rate and clipping follow their papers."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optimizers import make_optimizer
from torch import nn

from harness.model.builder import ModelBuilder
from harness.model.initialization import init_parameters
from harness.results.records import TrainSettings, VariantChoice
from harness.training import optimizer as optim
from variants.base import ModelShape, NoOptions
from variants.norm.layernorm import LayerNorm

SHAPE = ModelShape(n_layer=2, n_head=2, n_embd=16, seq_len=8, vocab_size=11)


def make():
    axes = {
        axis: VariantChoice(name=use, label=use, options={})
        for axis, use in (("positional", "learned"), ("attention", "mha"))
    }
    model = ModelBuilder(SHAPE, axes, []).model().to_empty(device="cpu")
    init_parameters(model, 0)
    return model


def train(**changes):
    return TrainSettings(**{"steps": 100, "tokens_per_step": 8} | changes)


def give_gradients(model, scale=1.0, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)


def test_only_matrices_decay():
    """GPT-2's recipe does not decay gains and biases; decaying them raises the loss."""
    model = make()
    groups = make_optimizer(model, train(weight_decay=0.3)).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decay = {}
    for group in groups:
        for parameter in group["params"]:
            decay[names[id(parameter)]] = group["weight_decay"]
    assert decay.keys() == set(names.values())
    for name, value in decay.items():
        is_matrix = name.endswith("weight") and "ln_" not in name
        assert value == (0.3 if is_matrix else 0.0), name


def test_frozen_parameter_is_not_optimized():
    model = make()
    model.wte.weight.requires_grad_(False)
    for group in make_optimizer(model, train()).param_groups:
        assert all(parameter is not model.wte.weight for parameter in group["params"])


def test_model_of_vectors_only_can_be_optimized():
    assert len(make_optimizer(LayerNorm(SHAPE, NoOptions()), train()).param_groups) == 1


def test_steps_match_adamw_in_float64():
    """Loshchilov & Hutter 2019, algorithm 2, over six steps with a changing learning rate."""
    cfg = train(
        lr=3e-2, min_lr=1e-3, warmup_steps=2, steps=6, weight_decay=0.2, beta1=0.8, beta2=0.9
    )
    model = make()
    optimizer = make_optimizer(model, cfg)
    expected = {name: p.detach().double() for name, p in model.named_parameters()}
    m = {name: torch.zeros_like(value) for name, value in expected.items()}
    v = {name: torch.zeros_like(value) for name, value in expected.items()}
    for step in range(6):
        give_gradients(model, seed=step)
        lr = optim.set_learning_rate(optimizer, step, cfg)
        for name, parameter in model.named_parameters():
            g = parameter.grad.double()
            m[name] = 0.8 * m[name] + 0.2 * g
            v[name] = 0.9 * v[name] + 0.1 * g**2
            m_hat = m[name] / (1 - 0.8 ** (step + 1))
            v_hat = v[name] / (1 - 0.9 ** (step + 1))
            decay = 0.2 if parameter.dim() == 2 else 0.0
            update = m_hat / (v_hat.sqrt() + 1e-8) + decay * expected[name]
            expected[name] = expected[name] - lr * update
        optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.detach().double(), expected[name], atol=1e-6, rtol=1e-5
        )


@pytest.mark.parametrize(
    ("step", "lr"),
    [
        (0, 0.2),  # a fifth: step -1 would have rate 0
        (1, 0.4),
        (3, 0.8),
        (4, 1.0),  # peak
        (8, 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2),  # a quarter of the decay
        (12, 0.55),  # half of the decay
        (16, 0.1 + 0.9 * (1 - math.sqrt(0.5)) / 2),
        (20, 0.1),  # the end of the decay
    ],
)
def test_learning_rate_by_hand(step, lr):
    cfg = train(steps=20, warmup_steps=4, lr=1.0, min_lr=0.1)
    assert optim.learning_rate(step, cfg) == pytest.approx(lr, rel=1e-12)


@given(
    lr=st.floats(1e-12, 1e3),
    floor=st.floats(0, 1),
    steps=st.integers(1, 300),
    warmup=st.floats(0, 1),
    schedule=st.sampled_from(["cosine", "linear", "wsd", "constant"]),
    factor=st.sampled_from([1.0, 0.3, 20.0]),
)
def test_the_rate_rises_in_warmup_only_and_never_above_lr(
    lr, floor, steps, warmup, schedule, factor
):
    n_warmup = int(warmup * steps)
    cfg = train(steps=steps, warmup_steps=n_warmup, lr=lr, min_lr=floor * lr, schedule=schedule)
    lr *= factor
    rates = [optim.learning_rate(step, cfg, lr) for step in range(steps)]
    assert min(rates) > 0 and max(rates) <= lr
    assert rates[:n_warmup] == sorted(rates[:n_warmup])
    assert rates[n_warmup:] == sorted(rates[n_warmup:], reverse=True)
    assert n_warmup == steps or rates[n_warmup] == pytest.approx(lr, rel=1e-12)


HEIGHTS = {  # after a warm-up of 4 of 20 steps: the height between min_lr and lr at some steps
    "cosine": {4: 1.0, 8: (1 + math.sqrt(0.5)) / 2, 12: 0.5, 19: (1 - math.cos(math.pi / 16)) / 2},
    "linear": {4: 1.0, 8: 0.75, 12: 0.5, 16: 0.25, 19: 1 / 16},
    "wsd": {4: 1.0, 14: 1.0, 15: 1.0, 16: 0.8, 17: 0.6, 19: 0.2},  # 5 steps of decay
    "constant": {4: 1.0, 12: 1.0, 19: 1.0},
}


def test_every_schedule_is_checked():
    assert HEIGHTS.keys() == set(get_args(TrainSettings.model_fields["schedule"].annotation))


@pytest.mark.parametrize("schedule", HEIGHTS)
def test_schedules_by_hand(schedule):
    """Hu et al. 2024, 4.2, for `wsd`, with the linear decay of Hägele et al. 2024."""
    cfg = train(
        steps=20, warmup_steps=4, lr=1.0, min_lr=0.1, schedule=schedule, decay_fraction=0.25
    )
    assert optim.learning_rate(1, cfg) == pytest.approx(0.4)
    for step, height in HEIGHTS[schedule].items():
        assert optim.learning_rate(step, cfg) == pytest.approx(0.1 + 0.9 * height, rel=1e-12)
        assert optim.learning_rate(step, cfg, 2.0) == pytest.approx(0.2 + 1.8 * height, rel=1e-12)


def test_warmup_over_the_whole_run():
    cfg = train(steps=4, warmup_steps=4, lr=1.0)
    assert [optim.learning_rate(step, cfg) for step in range(4)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8]
    )


def test_all_groups_get_the_rate_of_the_step():
    cfg = train(steps=20, warmup_steps=4, lr=1.0)
    optimizer = make_optimizer(make(), cfg)
    assert optim.set_learning_rate(optimizer, 1, cfg) == pytest.approx(0.4)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.4, 0.4])


@pytest.mark.parametrize(("max_norm", "factor"), [(1.0, 1 / 13), (26.0, 1.0), (0.0, 1.0)])
def test_clipping_uses_the_global_norm_and_returns_it(max_norm, factor):
    """Clipping by layer changes the step's direction; the norm after clipping hides spikes."""
    model = nn.Linear(2, 2)
    model.weight.grad = torch.tensor([[3.0, 0.0], [4.0, 0.0]])
    model.bias.grad = torch.tensor([12.0, 0.0])
    assert optim.clip(model, max_norm).item() == pytest.approx(13.0)
    torch.testing.assert_close(model.weight.grad, torch.tensor([[3.0, 0.0], [4.0, 0.0]]) * factor)
    torch.testing.assert_close(model.bias.grad, torch.tensor([12.0, 0.0]) * factor)


def test_non_finite_gradient_shows_in_the_norm():
    """The loop detects divergence by this number."""
    model = nn.Linear(2, 2)
    give_gradients(model)
    model.weight.grad[0, 0] = math.nan
    assert math.isnan(optim.clip(model, 1.0).item())
    give_gradients(model)
    model.weight.grad[0, 0] = math.inf
    assert not math.isfinite(optim.clip(model, 1.0).item())


@pytest.mark.parametrize("size", [(50_257, 32), (1000, 1024), (7,)])
def test_norm_of_large_gradients_is_exact(size):
    """PyTorch's fp32 norm on a CPU is off by 2e-5 with GPT-2's vocabulary and width 32."""
    parameter = nn.Parameter(torch.zeros(size))
    grad = torch.randn(size, generator=torch.Generator().manual_seed(0))
    parameter.grad = grad.clone()
    norm = optim.clip(nn.ParameterList([parameter]), 0.5)
    exact = grad.double().square().sum().sqrt()
    assert norm.item() == pytest.approx(exact.item(), rel=1e-7)
    torch.testing.assert_close(
        parameter.grad.double(), grad.double() * 0.5 / exact, rtol=1e-6, atol=0
    )
