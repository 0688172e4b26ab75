"""No shipped variant is refused or flagged, at any sample of its options.

A few models cover all samples: each contains one of every axis. Pairs that a study does not accept
are left out.
"""

import dataclasses

import pytest
from contract.cases import MLPS, NORMS, PARTS, SHAPE, compatible

from harness.contract.architecture import Architecture
from harness.contract.model import Conditions, model_results


def covering():
    """Yield models, as a sample of each axis, that contain every sample at least once."""
    attentions = list(PARTS["attention"])
    remaining = list(PARTS["positional"])
    n_models = max(len(attentions), len(remaining))
    for i in range(n_models):
        attention = attentions[i % len(attentions)]
        candidates = [p for p in [*remaining, *PARTS["positional"]] if compatible(attention, p)]
        positional = candidates[0]
        if positional in remaining:
            remaining.remove(positional)
        yield attention, positional, NORMS[i % len(NORMS)], MLPS[i % len(MLPS)]


MODELS = list(covering())


def test_models_cover_every_sample():
    for column, axis in enumerate(("attention", "positional", "norm", "mlp")):
        covered = {str(model[column]) for model in MODELS}
        assert covered == {str(case) for case in PARTS[axis]}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: "-".join(map(str, model)))
def test_shipped_model_passes(model):
    """A user could not start a study with it."""
    architecture = Architecture.of_entry({}, [])
    for axis, case in zip(("attention", "positional", "norm", "mlp"), model, strict=True):
        architecture = architecture.replaced(axis, case.cls, case.options)
    shape = dataclasses.replace(SHAPE, vocab_size=31)
    results = model_results(architecture, shape, Conditions("bf16"))
    assert [result for result in results if result.outcome == "failed"] == []


EXTREMES = [
    {"seq_len": 1},
    {"seq_len": 2},
    {"seq_len": 3},
    {"n_head": 1, "n_embd": 1},
    {"n_layer": 1, "n_head": 4, "n_embd": 4},
    {"dropout": 0.99},
]


@pytest.mark.parametrize("changes", EXTREMES, ids=str)
def test_model_of_an_extreme_shape_passes(changes):
    """Such a study is a smoke test of a machine."""
    (alibi,) = [case for case in PARTS["positional"] if str(case) == "alibi()"]
    architecture = Architecture.of_entry({}, []).replaced("positional", alibi.cls, alibi.options)
    results = model_results(architecture, dataclasses.replace(SHAPE, **changes))
    assert [result for result in results if result.outcome == "failed"] == []
