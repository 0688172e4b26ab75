"""A run that ends with a NaN says where the NaN came from, and its state is still that before it.

If these failed, the user would read "loss nan" and start a search.
"""

import re

import pytest
import torch
import torch.nn.functional as F
from tiny_run import tiny_spec

from harness.model.gpt import GPT
from harness.results.run import Run
from harness.training import loop
from harness.training.loop import NotFiniteError, train
from variants.mlp.gelu import Gelu

STEP = 7
STEPS = {"steps": 12, "eval_every": 12}


class NanBackward(torch.autograd.Function):
    """The identity, whose gradient is NaN."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return torch.full_like(grad, torch.nan)


@pytest.fixture
def now(monkeypatch):
    """Return a list whose last item is the step that is trained."""
    steps = [-1]
    seed_step = loop.seed_step

    def seed(seed, step, rank):
        steps.append(step)
        seed_step(seed, step, rank)

    monkeypatch.setattr(loop, "seed_step", seed)
    return steps


def plant(monkeypatch, now, damage, calls=(1,)):
    """Damage what these calls of an MLP's activation in step 7 return."""
    count = 0

    def activation(self, x):
        nonlocal count
        y = F.gelu(x, approximate="tanh")
        if now[-1] != STEP or not self.training:
            return y
        count += 1
        return damage(y) if (count - 1) % 4 in calls else y

    monkeypatch.setattr(Gelu, "activation", activation)


def failure(folder, ranks, **changes):
    run = Run(folder / "run")
    run.path.mkdir()
    with pytest.raises(NotFiniteError) as error:
        train(run, tiny_spec(folder, **STEPS | changes), ranks)
    return run, str(error.value)


def test_nan_in_the_forward_pass(tmp_path, ranks, monkeypatch, now, capfd):
    plant(monkeypatch, now, lambda y: y.index_fill(-1, torch.tensor(3), torch.nan), calls=(1, 3))
    run, message = failure(tmp_path, ranks)
    assert re.match(r"step 7: loss nan, gradient norm nan, learning rate 0\.00\d+; ", message)
    assert "is the input of h.1.mlp.c_proj (Linear), in the forward pass" in message
    assert "\n" not in message
    assert run.steps().step.tolist() == list(range(STEP + 1))
    log = capfd.readouterr().out
    assert message.partition("; ")[2] in log
    assert "largest output of h.1.mlp.c_fc (Linear): " in log


def test_nan_in_the_backward_pass(tmp_path, ranks, monkeypatch, now):
    plant(monkeypatch, now, NanBackward.apply, calls=(1, 3))
    _, message = failure(tmp_path, ranks)
    assert re.match(r"step 7: loss \d\.\d+, gradient norm nan, ", message)
    assert "is the gradient of the output of h.1.mlp.c_fc (Linear), in the backward" in message


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_compiled_model_is_diagnosed_too(tmp_path, ranks, monkeypatch, now):
    """Hooks inside of a compiled block do not run."""
    monkeypatch.setattr(loop, "COMPILER", "eager")
    plant(monkeypatch, now, lambda y: y * torch.nan, calls=(1, 3))
    _, message = failure(tmp_path, ranks, compile=True)
    torch.compiler.reset()
    assert message.startswith("step 7: ")
    assert "is the input of h.1.mlp.c_proj (Linear), in the forward pass" in message


def test_infinite_loss_with_finite_gradients(tmp_path, ranks, monkeypatch, now):
    forward = GPT.forward

    def infinite(self, tokens, targets):
        losses = forward(self, tokens, targets)
        return losses + torch.inf if now[-1] == STEP and self.training else losses

    monkeypatch.setattr(GPT, "forward", infinite)
    _, message = failure(tmp_path, ranks)
    assert message.startswith("step 7: loss inf, gradient norm ")
    assert "is the output of the model (GPT), in the forward pass" in message


def test_gradient_of_a_parameter_only(tmp_path, ranks, monkeypatch, now):
    norm = loop.TrainStep.forward_backward

    def damaged(self, step, *timer):
        loss = norm(self, step, *timer)
        if step == STEP:
            self.gpt.h[0].mlp.c_fc.weight.grad[0] = torch.inf
        return loss

    monkeypatch.setattr(loop.TrainStep, "forward_backward", damaged)
    _, message = failure(tmp_path, ranks)
    assert "gradient of the parameter h.0.mlp.c_fc.weight, in the backward pass" in message


def test_parameters_that_were_damaged_before(tmp_path, ranks, monkeypatch):
    step = loop.TrainStep.__call__

    def damaging(self, n, *timer):
        result = step(self, n, *timer)
        if n == STEP - 1:
            self.gpt.h[1].ln_2.weight.data[0] = torch.inf
        return result

    monkeypatch.setattr(loop.TrainStep, "__call__", damaging)
    _, message = failure(tmp_path, ranks)
    assert message.endswith("; parameter h.1.ln_2.weight was not finite before the step")


def test_the_micro_batch_is_named(tmp_path, ranks, monkeypatch, now):
    plant(monkeypatch, now, lambda y: y * torch.inf, calls=(3,))
    _, message = failure(tmp_path, ranks, micro_batch_size=4)
    assert message.endswith("h.1.mlp.c_proj (Linear), in the forward pass of micro-batch 2 of 2")


def test_a_nan_that_a_second_pass_does_not_repeat(tmp_path, ranks, monkeypatch, now):
    first = []

    def once(y):
        first.append(y)
        return y * torch.nan if len(first) == 1 else y

    plant(monkeypatch, now, once)
    _, message = failure(tmp_path, ranks)
    assert "a second pass over the same batch is finite: the model keeps state" in message


def test_parameters_and_optimizer_state_survive(tmp_path, ranks, monkeypatch, now):
    """Otherwise the run could not be examined, or the diagnosis would see the damage it made."""
    plant(monkeypatch, now, lambda y: y * torch.nan)
    states = []
    set_up = loop.set_up

    def keep(*arguments):
        states.append(set_up(*arguments))
        return states[-1]

    monkeypatch.setattr(loop, "set_up", keep)
    failure(tmp_path, ranks)
    (setup,) = states
    monkeypatch.undo()
    run = Run(tmp_path / "reference")
    run.path.mkdir()
    monkeypatch.setattr(loop, "set_up", keep)

    class Enough(Exception):
        pass

    def stop(self, step, *_):
        if step == STEP - 1:
            raise Enough

    monkeypatch.setattr(loop.Loop, "_record", stop)
    with pytest.raises(Enough):
        train(run, tiny_spec(tmp_path, **STEPS), ranks)
    reference = states[-1]
    for (name, value), expected in zip(
        setup.gpt.named_parameters(), reference.gpt.parameters(), strict=True
    ):
        assert torch.equal(value, expected), name
        state = setup.optimizer.state[value]
        for key, moment in reference.optimizer.state[expected].items():
            assert torch.equal(state[key], moment), (name, key)
