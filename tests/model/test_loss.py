"""Training minimizes the objective, and every recorded loss is the cross-entropy."""

import math

import pytest
import torch
from tiny_run import tiny_spec

from harness.model.builder import ModelBuilder
from harness.model.initialization import init_parameters
from harness.model.loss import Objective, token_losses
from harness.results.run import Run
from harness.training.loop import train
from variants.base import ModelShape

SHAPE = ModelShape(n_layer=2, n_head=2, n_embd=16, seq_len=8, vocab_size=11)
OBJECTIVES = [
    Objective(label_smoothing=0.1),
    Objective(z_loss=0.01),
    Objective(label_smoothing=0.3, z_loss=1e-3),
]


def sample(seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(2, 5, 11, generator=generator, dtype=torch.float64)
    return logits, torch.randint(11, (2, 5), generator=generator)


def formula(logits, targets, objective):
    """Return the loss of each token, one by one, from the definition of both terms."""
    losses = torch.zeros(targets.shape, dtype=torch.float64)
    n = logits.shape[-1]
    for b in range(len(targets)):
        for t in range(targets.shape[1]):
            z = sum(logit.exp() for logit in logits[b, t])
            for token in range(n):
                wanted = objective.label_smoothing / n
                if token == targets[b, t]:
                    wanted += 1 - objective.label_smoothing
                losses[b, t] -= wanted * (logits[b, t, token].exp() / z).log()
            losses[b, t] += objective.z_loss * z.log() ** 2
    return losses


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_gradient_is_that_of_the_formulas(objective):
    logits, targets = sample()
    weights = torch.rand(2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = []
    for function in (token_losses, formula):
        x = logits.clone().requires_grad_()
        (function(x, targets, objective) * weights).sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-10)
    plain = logits.clone().requires_grad_()
    (token_losses(plain, targets) * weights).sum().backward()
    assert (plain.grad - gradients[0]).abs().max() > 1e-4, "the terms matter"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_gradient_of_smoothing_is_pytorchs(objective):
    logits, targets = sample(seed=4)
    gradients = []
    for own in (True, False):
        x = logits.clone().requires_grad_()
        if own:
            token_losses(x, targets, objective).mean().backward()
        else:
            smoothing = objective.label_smoothing
            loss = torch.nn.functional.cross_entropy(x.mT, targets, label_smoothing=smoothing)
            (loss + objective.z_loss * x.logsumexp(-1).square().mean()).backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_value_is_the_cross_entropy_to_the_bit(objective):
    """Losses of entries with other objectives would not be comparable."""
    logits, targets = sample(scale=10.0)
    x = logits.float().requires_grad_()
    assert torch.equal(token_losses(x, targets, objective), token_losses(x, targets))


def test_evaluation_has_the_gradient_of_the_cross_entropy():
    """Checks and probes that differentiate in evaluation mode see the model, not the objective."""
    gradients = []
    tokens = torch.arange(16).view(2, 8) % 11
    for objective in (Objective(), OBJECTIVES[2]):
        model = ModelBuilder(SHAPE, {}, []).model().to_empty(device="cpu").eval()
        init_parameters(model, 0)
        model.objective = objective
        model(tokens, tokens.roll(-1, 1)).mean().backward()
        gradients.append(model.wte.weight.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("terms", [{"label_smoothing": 0.1}, {"z_loss": 0.1}])
def test_a_run_minimizes_the_objective(tmp_path, ranks, terms):
    """The first recorded losses equal those of a plain run; the first gradient does not."""
    runs = {}
    for name, settings in {"plain": {}, "terms": terms}.items():
        (tmp_path / name / "run").mkdir(parents=True)
        runs[name] = Run(tmp_path / name / "run")
        spec = tiny_spec(tmp_path / name, micro_batch_size=2, **settings)
        runs[name].create(spec)
        runs[name].mark_running()
        train(runs[name], spec, ranks)
    plain, other = runs["plain"].steps(), runs["terms"].steps()
    assert plain.loss[0] == other.loss[0] and plain.grad_norm[0] != other.grad_norm[0]
    assert runs["plain"].evals()[0].val_loss == runs["terms"].evals()[0].val_loss
    assert plain.loss[-1] != other.loss[-1]


def test_smoothing_flattens_and_z_loss_normalizes():
    """At the optimum of one token: the stated probability, and log Z nearer to 0."""
    targets = torch.zeros(1, 1, dtype=torch.long)
    found = {}
    for objective in (Objective(0.2), Objective(0.2, 0.5)):
        logits = torch.full((1, 1, 11), 2.0, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12)

        def closure(logits=logits, optimizer=optimizer, objective=objective):
            optimizer.zero_grad()
            token_losses(logits, targets, objective).sum().backward()
            return formula(logits, targets, objective).sum()

        optimizer.step(closure)
        found[objective] = logits.detach()
        assert logits.softmax(-1)[0, 0, 0].item() == pytest.approx(0.8 + 0.2 / 11, abs=1e-4)
    smoothed, both = (abs(logits.logsumexp(-1).item()) for logits in found.values())
    assert both < 1e-3 < smoothed
    assert smoothed > 2 and math.isfinite(smoothed)
