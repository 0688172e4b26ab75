"""A loss that an honest model cannot have is named in the log, the progress line and the report.

If these failed, a model that sees the tokens it predicts would only look like a very good one.
"""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from reported import written
from tiny_run import VOCAB, tiny_spec

from harness.data import synthetic
from harness.launch.progress import _outcome
from harness.model.builder import ModelBuilder
from harness.model.gpt import GPT
from harness.model.initialization import init_parameters
from harness.results.plausibility import ENTROPY_TOLERANCE, implausible
from harness.results.records import InitSource, VariantChoice
from harness.results.run import Run
from harness.training.loop import train
from variants import registry
from variants.base import ModelShape

LAYER_AXES = ("positional", "attention", "norm", "mlp")
OPTIONS = {"n_kv_head": 2, "window": 5}  # of those without a default
EXPECTED = math.log(VOCAB)


@pytest.fixture
def spec(tmp_path):
    return tiny_spec(tmp_path)


def kinds(spec, losses, bits=(None,), first_step=0):
    steps = [first_step + i for i in range(len(losses))]
    return [finding.kind for finding in implausible(spec, steps, losses, list(bits))]


@pytest.mark.parametrize(
    ("factor", "is_plausible"),
    [(1.0, True), (1.09, True), (0.91, True), (1.11, False), (0.89, False), (3.0, False)],
)
def test_first_loss_of_a_new_model(spec, factor, is_plausible):
    assert kinds(spec, [factor * EXPECTED, 0.1]) == ([] if is_plausible else ["initial-loss"])


@pytest.mark.parametrize(
    ("axis", "name"),
    [(axis, name) for axis in LAYER_AXES for name in registry.files(axis)],
)
@pytest.mark.parametrize("n_embd", [16, 1024])
def test_first_loss_of_every_variant_is_plausible(spec, axis, name, n_embd):
    fields = dataclasses.fields(registry.load(axis, name).Options)
    options = {field.name: OPTIONS[field.name] for field in fields if field.name in OPTIONS}
    choice = VariantChoice(name=name, label=name, options=options)
    shape = ModelShape(n_layer=1, n_head=4, n_embd=n_embd, seq_len=16, vocab_size=65)
    model = ModelBuilder(shape, {axis: choice}, []).model()
    model.to_empty(device="cpu")
    init_parameters(model, 0)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(65, size=(4, 17)))
    with torch.no_grad():
        loss = model(tokens[:, :-1], tokens[:, 1:]).mean().item()
    sizes = spec.model.model_copy(update={"vocab_size": 65, "n_embd": n_embd})
    assert kinds(spec.model_copy(update={"model": sizes}), [loss]) == []


def test_first_loss_of_a_trained_or_resumed_model(spec):
    assert kinds(spec, [0.1], first_step=4) == []
    warm = spec.model_copy(update={"init": InitSource(run_id="other")})
    assert kinds(warm, [0.1]) == []


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_missing_values_are_no_finding(spec, value):
    data = spec.data.model_copy(update={"entropy_nats_per_byte": 1.0})
    spec = spec.model_copy(update={"data": data})
    assert kinds(spec, [value], [value]) == []
    assert kinds(spec, [], []) == []


@pytest.mark.parametrize("eval_tokens", ["all", 50])
@pytest.mark.parametrize(("distance", "expected"), [(0.9, []), (1.1, ["below-entropy"])])
def test_loss_below_the_entropy(spec, eval_tokens, distance, expected):
    """The more bytes were evaluated, the closer to the entropy a loss is suspicious."""
    n = 50 if eval_tokens == 50 else 101
    entropy = 2.0
    lowest = entropy - distance * ENTROPY_TOLERANCE / math.sqrt(n)
    data = spec.data.model_copy(update={"entropy_nats_per_byte": entropy})
    settings = spec.train.model_copy(update={"eval_tokens": eval_tokens})
    spec = spec.model_copy(update={"data": data, "train": settings})
    bits = [9.0, lowest / math.log(2), entropy / math.log(2)]
    assert kinds(spec, [EXPECTED, 1.0, 1.0], bits) == expected


def test_chance_never_reaches_the_tolerance():
    """The true model's own loss on a part of the corpus is as low as chance allows."""
    surprisal = synthetic.generate(400_000).surprisal
    for n in (512, 8192, 65536):
        starts = range(0, len(surprisal) - n, n // 2)
        lowest = min(surprisal[start : start + n].mean() for start in starts)
        assert surprisal.mean() - lowest < ENTROPY_TOLERANCE / math.sqrt(n)
        assert surprisal.mean() - lowest > 0.1 * ENTROPY_TOLERANCE / math.sqrt(n)


def test_report_shows_implausible_entries(one_axis, no_figures, monkeypatch):
    make_spec = one_axis.spec

    def spec_of_many_tokens(*arguments):
        spec = make_spec(*arguments)
        train = spec.train.model_copy(update={"eval_tokens": 100_000})
        return spec.model_copy(update={"train": train})

    monkeypatch.setattr(one_axis, "spec", spec_of_many_tokens)
    for run in one_axis.write().store.runs("tiny"):
        if "gqa2" in run.run_id:
            lines = [json.loads(line) for line in run.evals_path.read_text().splitlines()]
            lines[0]["val_loss"] *= 2
            lines[-1]["bits_per_byte"] = 0.2
            run.evals_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page, summary, _ = written(one_axis)
    entry = "learned-gqa2-single"
    found = [(caveat["kind"], caveat["entry"]) for caveat in summary["caveats"]]
    assert found == [("initial-loss", entry), ("below-entropy", entry)]
    assert "3 of 3 runs; seed 0" in summary["caveats"][0]["message"]
    assert "gqa2 [below-entropy]" in page


def test_log_and_last_line_warn(tmp_path, ranks, monkeypatch, capfd):
    """A model that sees the targets: its loss starts and ends near 0."""
    forward = GPT.forward
    monkeypatch.setattr(GPT, "forward", lambda gpt, x, y: 0.01 * forward(gpt, x, y))
    spec = tiny_spec(tmp_path)
    data = spec.data.model_copy(update={"entropy_nats_per_byte": 2.0})
    spec = spec.model_copy(update={"data": data})
    run = Run(tmp_path / "run")
    run.create(spec)
    run.mark_running()
    train(run, spec, ranks)
    run.finish("done")
    log = capfd.readouterr().out
    assert "WARNING: after 0 steps: the loss before the first step is 0.028, not ln(17)" in log
    assert "WARNING: after 6 steps: a validation loss of " in log
    _, line = _outcome(run)
    assert "; WARNING: the loss before the first step" in line
    assert "; WARNING: a validation loss of" in line
    assert np.isfinite(float(line.split()[2].rstrip(";")))
