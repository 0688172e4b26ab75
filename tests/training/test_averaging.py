"""The moving average of the parameters is that of its formula, and never disturbs the training."""

import numpy as np
import pytest
import torch
from tiny_run import SEQ_LEN, tiny_spec

from harness.data.batches import Tokens
from harness.model.builder import ModelBuilder
from harness.results.run import Run
from harness.results.run_data import read_run
from harness.training import loop
from harness.training.averaging import ParameterAverage
from harness.training.loop import train
from variants.base import ModelShape

DECAY = 0.8


def by_formula(history, decay):
    """Return the weighted mean of the values after each step, in float64."""
    weights = [decay ** (len(history) - i) for i in range(1, len(history) + 1)]
    total = sum(w * value.double() for w, value in zip(weights, history, strict=True))
    return total / sum(weights)


@pytest.mark.parametrize("decay", [0.1, 0.8, 0.999])
def test_an_average_is_the_weighted_mean_of_all_steps(decay):
    """Without the initial values, which would dominate a short run."""
    model = torch.nn.Linear(3, 5)
    average = ParameterAverage(model, decay)
    history = []
    for step in range(1, 20):
        with torch.no_grad():
            model.weight += torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        history.append(model.weight.detach().clone())
        average.update(step)
        expected = by_formula(history, decay)
        torch.testing.assert_close(average.values["weight"].double(), expected, atol=1e-5, rtol=0)


def test_exchanged_values_return_to_the_bit():
    model = torch.nn.Linear(3, 5)
    average = ParameterAverage(model, DECAY)
    with torch.no_grad():
        model.weight.normal_()
    average.update(2)
    raw, mean = model.weight.detach().clone(), average.values["weight"].clone()
    assert not torch.equal(raw, mean)
    with pytest.raises(ZeroDivisionError), average.applied():
        assert torch.equal(model.weight, mean)
        raise ZeroDivisionError
    assert torch.equal(model.weight, raw) and torch.equal(average.values["weight"], mean)


def trained(folder, ranks, monkeypatch, **settings):
    """Train; return the run, its probes, and the parameters after each step."""
    (folder / "run").mkdir(parents=True)
    history = []
    forward_backward = loop.TrainStep.forward_backward

    def record(train_step, step, *timer):
        history.append({n: p.detach().clone() for n, p in train_step.gpt.named_parameters()})
        return forward_backward(train_step, step, *timer)

    monkeypatch.setattr("harness.probes.peak_flops.SIZE", 8)
    monkeypatch.setattr(loop.TrainStep, "forward_backward", record)
    run = Run(folder / "run")
    run.create(tiny_spec(folder, steps=5, eval_every=2, keep_checkpoints="weights", **settings))
    run.mark_running()
    probes = train(run, run.spec, ranks)
    run.write_probes(probes)
    run.finish("done")
    monkeypatch.undo()
    return run, probes, history[1:]


@pytest.fixture
def both(tmp_path, ranks, monkeypatch):
    plain = trained(tmp_path / "plain", ranks, monkeypatch)
    return plain, trained(tmp_path / "average", ranks, monkeypatch, ema_decay=DECAY)


def test_the_recorded_loss_is_that_of_the_averaged_model(both):
    run, _, history = both[1]
    spec = run.spec
    shape = ModelShape(**spec.model.model_dump())
    model = ModelBuilder(shape, spec.axes, []).model().to_empty(device="cpu").eval()
    tokens = Tokens(spec.launch.val_tokens)
    offsets = np.arange((len(tokens) - 1) // SEQ_LEN) * SEQ_LEN
    inputs, targets = tokens.windows(offsets, SEQ_LEN)
    first, *others = run.evals()
    assert first.ema_val_loss == first.val_loss
    for line in others:
        steps = history[: line.step]
        means = {name: by_formula([values[name] for values in steps], DECAY) for name in steps[0]}
        model.load_state_dict({name: value.float() for name, value in means.items()})
        with torch.no_grad():
            expected = model(inputs, targets).double().mean().item()
        assert line.ema_val_loss == pytest.approx(expected, rel=1e-6)
        assert line.ema_val_loss != line.val_loss


def test_an_average_does_not_change_the_training(both):
    """Verdicts are on the parameters themselves: with and without are the same runs."""
    (plain, plain_probes, _), (run, probes, _) = both
    assert run.steps().loss.tolist() == plain.steps().loss.tolist()
    assert [line.val_loss for line in run.evals()] == [line.val_loss for line in plain.evals()]
    assert [line.ema_val_loss for line in plain.evals()] == [None] * 4
    assert probes.final_hashes == plain_probes.final_hashes
    weights = [(r.newest_checkpoint / "model.safetensors").read_bytes() for r in (plain, run)]
    assert weights[0] == weights[1]


def test_memory_includes_the_average(both):
    (_, plain, _), (_, probes, _) = both
    n_bytes = 4 * probes.parameters
    assert probes.memory[0].optimizer == plain.memory[0].optimizer + n_bytes
    assert probes.memory[0].peak == plain.memory[0].peak + n_bytes
    assert probes.predicted_memory.optimizer == plain.predicted_memory.optimizer + n_bytes


def test_tables_have_the_loss_of_the_average(both):
    (plain, _, _), (run, _, _) = both
    values = read_run(run).evals.ema_val_loss
    assert values.tolist() == [line.ema_val_loss for line in run.evals()]
    assert np.isnan(read_run(plain).evals.ema_val_loss).all()
