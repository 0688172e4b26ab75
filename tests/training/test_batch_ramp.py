"""A ramp of the batch: each step has the tokens that the settings state, everywhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_run import SEQ_LEN, tiny_spec

from harness.analysis import budgets
from harness.data.batches import Batches, Tokens
from harness.model.builder import ModelBuilder
from harness.model.initialization import init_parameters
from harness.results.records import TrainSettings
from harness.results.run import Run
from harness.results.run_data import read_run
from harness.training.loop import train
from variants.base import ModelShape

STEPS = 9
FULL = 8 * SEQ_LEN
RAMP = {"start_tokens": 2 * SEQ_LEN, "steps": 3}


def settings(full=800, **ramp):
    return TrainSettings(steps=100, tokens_per_step=full, batch_ramp=ramp or None)


def test_linear_growth_adds_the_first_batch_each_time():
    cfg = settings(800, start_tokens=100, steps=16)
    expected = [100 * n for n in (1, 1, 1, 2, 2, 3, 3, 4, 4, 4, 5, 5, 6, 6, 7, 7)]
    assert cfg.ramp_tokens == expected
    assert {cfg.tokens_at(step) for step in range(16, 100)} == {800}


def test_doubling_spends_equal_steps_on_each_size():
    cfg = settings(800, start_tokens=100, steps=9, growth="doubling")
    assert cfg.ramp_tokens == [100] * 3 + [200] * 3 + [400] * 3
    assert cfg.tokens_at(9) == 800


@pytest.mark.parametrize("growth", ["linear", "doubling"])
@pytest.mark.parametrize("n_ramp", [1, 2, 7, 64, 99])
@pytest.mark.parametrize("multiple", [2, 8, 64])
def test_a_ramp_grows_in_whole_multiples_to_the_full_step(growth, n_ramp, multiple):
    """Otherwise some step would not divide over the ranks."""
    cfg = settings(6 * multiple, start_tokens=6, steps=n_ramp, growth=growth)
    tokens = [cfg.tokens_at(step) for step in range(cfg.steps)]
    assert tokens[0] == 6 and tokens == sorted(tokens)
    assert all(n % 6 == 0 for n in tokens) and max(tokens[:n_ramp]) < 6 * multiple
    assert tokens[n_ramp:] == [6 * multiple] * (100 - n_ramp)
    assert cfg.total_tokens == sum(tokens) and cfg.first_full_step == n_ramp
    assert cfg.ramp_tokens == tokens[:n_ramp]


def test_without_a_ramp_all_steps_are_equal():
    assert settings().total_tokens == 80_000 and settings().first_full_step == 0
    assert settings().tokens_at(0) == 800 and settings().ramp_tokens == []


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs with and without a ramp, and one that accumulates gradients."""
    folder = tmp_path_factory.mktemp("runs")
    changes = {
        "flat": {},
        "ramp": {"batch_ramp": RAMP},
        "micro": {"batch_ramp": RAMP, "micro_batch_size": 2},
    }
    trained = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.probes.peak_flops.SIZE", 8)
        for name, change in changes.items():
            trained[name] = start(folder / name, **change)
    return trained


def start(folder, **change):
    (folder / "run").mkdir(parents=True)
    run = Run(folder / "run")
    run.create(tiny_spec(folder, steps=STEPS, eval_every=2, keep_checkpoints="weights", **change))
    run.mark_running()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1
    )
    from harness.distributed.process_group import DistributedContext

    probes = train(run, run.spec, DistributedContext(0, 1, torch.device("cpu")))
    torch.distributed.destroy_process_group()
    run.write_probes(probes)
    run.finish("done")
    return run


def test_the_first_loss_is_that_of_the_first_sequences(runs):
    """The batch of a step is a function of seed and step: its beginning, in a ramp."""
    spec = runs["ramp"].spec
    shape = ModelShape(**spec.model.model_dump())
    model = ModelBuilder(shape, spec.axes, []).model().to_empty(device="cpu")
    init_parameters(model, spec.seed)
    tokens = Tokens(spec.launch.train_tokens)
    offsets = Batches(tokens, SEQ_LEN, 8, spec.order_seed).offsets(0)
    inputs, targets = tokens.windows(offsets[:2], SEQ_LEN)
    expected = F.cross_entropy(model.logits(inputs).mT, targets).item()
    assert runs["ramp"].steps().loss[0] == pytest.approx(expected, rel=1e-6)
    assert runs["flat"].steps().loss[0] != pytest.approx(expected, rel=1e-4)


def test_each_step_states_its_tokens(runs):
    assert runs["ramp"].steps().tokens.tolist() == [16, 32, 48] + [64] * 6
    assert runs["flat"].steps().tokens.tolist() == [64] * 9


def test_micro_batches_do_not_change_a_ramp(runs):
    """A gradient that is summed over another number of micro-batches trains at another rate."""
    one, other = (runs[name].steps() for name in ("ramp", "micro"))
    assert other.loss.tolist() == pytest.approx(one.loss.tolist(), rel=1e-5)
    assert other.grad_norm.tolist() == pytest.approx(one.grad_norm.tolist(), rel=1e-4)


def test_measurements_are_those_of_the_full_step(runs):
    """The first step of a ramp has a quarter of the activations: memory would be understated."""
    ramp, flat = (runs[name].probes for name in ("ramp", "flat"))
    for category in ("parameters", "gradients", "optimizer", "activations", "peak"):
        assert getattr(ramp.memory[0], category) == getattr(flat.memory[0], category), category
    assert ramp.flops_per_token_counted == flat.flops_per_token_counted
    assert ramp.predicted_bytes_sent == flat.predicted_bytes_sent


def test_speed_and_budgets_count_the_tokens_of_each_step(runs):
    """With the first step's tokens, a ramp would seem four times as slow and as frugal."""
    data = read_run(runs["ramp"])
    assert data.tokens_per_step == FULL
    assert data.steps.warmup.tolist() == [True] * 6 + [False] * 3
    assert len(data.timed_step_s) == 3
    done = [0, 48, 160, 288, 416, 480]
    assert data.tokens_at_evals.tolist() == done
    assert data.spec.train.total_tokens == done[-1]
    for kind, factor in (("tokens", 1), ("flops", data.flops_per_token)):
        assert budgets.SPENT[kind](data).tolist() == [n * factor for n in done]


def test_an_unfinished_curve_has_tokens_up_to_its_end(runs):
    data = read_run(runs["ramp"])
    steps = replace(data.steps, **{f: v[:4] for f, v in vars(data.steps).items()})
    assert replace(data, steps=steps).tokens_at_evals[:3].tolist() == [0, 48, 160]
    assert np.isfinite(replace(data, steps=steps).tokens_at_evals).all()
