"""Runs with masked documents: training and every evaluation mask them alike."""

import numpy as np
import pytest
import torch
from tiny_run import N_VAL_TOKENS, SEQ_LEN, tiny_spec

from harness.data.batches import Tokens, evaluation_offsets
from harness.model.gpt import GPT
from harness.results.records import ProbeSettings
from harness.results.run import Run
from harness.training import loop

SEPARATOR = 6  # in every third window


def masked_spec(folder, **settings):
    spec = tiny_spec(folder, **settings)
    data = spec.data.model_copy(update={"documents": "mask", "separator": [SEPARATOR]})
    probes = ProbeSettings(eval_lengths=[SEQ_LEN, 2 * SEQ_LEN])
    axes = spec.axes | {"positional": spec.axes["positional"].model_copy(update={"name": "rope"})}
    return spec.model_copy(update={"data": data, "probes": probes, "axes": axes})


def train(folder, spec, ranks):
    run = Run(folder / spec.run_id)
    run.create(spec)
    return run, loop.train(run, spec, ranks)


def test_training_and_all_evaluations_mask_documents(tmp_path, ranks, monkeypatch):
    """A validation across documents would measure another model than the one trained."""
    masked = []
    documents = GPT.documents

    def noted(self, tokens_BT):
        found = documents(self, tokens_BT)
        masked.append((self.training, tokens_BT.shape[1], found is not None))
        return found

    monkeypatch.setattr(GPT, "documents", noted)
    train(tmp_path, masked_spec(tmp_path), ranks)
    kinds = {(training, length) for training, length, _ in masked}
    assert kinds == {(True, SEQ_LEN), (False, SEQ_LEN), (False, 2 * SEQ_LEN)}
    assert all(is_masked for _, _, is_masked in masked)


def test_validation_loss_is_that_of_documents_alone(tmp_path, ranks):
    """The loss of a masked run, counted with a model that never sees two documents."""
    spec = masked_spec(tmp_path)
    run = Run(tmp_path / spec.run_id)
    run.create(spec)
    gpt = loop.set_up(run, spec, ranks).gpt.eval()
    loop.Evaluation(run, spec, ranks)(gpt, step=0, train_s=0.0)
    (line,) = run.evals()
    offsets = evaluation_offsets(N_VAL_TOKENS, SEQ_LEN, None)
    inputs, targets = Tokens(spec.launch.val_tokens).windows(offsets, SEQ_LEN)
    losses = []
    gpt.separator = None
    for tokens, labels in zip(inputs, targets, strict=True):
        starts = [*(tokens == SEPARATOR).nonzero().flatten().tolist(), SEQ_LEN]
        begin = 0
        for stop in starts:
            if stop > begin:
                with torch.no_grad():
                    losses.append(gpt(tokens[None, begin:stop], labels[None, begin:stop]))
            begin = stop
    assert len(losses) > len(inputs)
    mean = torch.cat(losses, dim=1).double().mean().item()
    assert line.val_loss == pytest.approx(mean, rel=1e-6)


def test_mask_changes_the_training_and_cross_does_not(tmp_path, ranks):
    """A setting that has no effect would be reported as an ablation without an effect."""
    spec = masked_spec(tmp_path)
    plain = spec.model_copy(
        update={
            "run_id": "plain",
            "data": spec.data.model_copy(update={"documents": "cross", "separator": None}),
        }
    )
    absent = spec.model_copy(
        update={
            "run_id": "absent",
            "data": spec.data.model_copy(update={"separator": [1000]}),
        }
    )
    losses = {}
    for each in (spec, plain, absent):
        run, _ = train(tmp_path, each, ranks)
        losses[each.run_id] = run.steps().loss
    assert not np.allclose(losses["run"], losses["plain"], rtol=1e-4)
    np.testing.assert_allclose(losses["absent"], losses["plain"], rtol=1e-5)
