"""A compiled run compiles each distinct block once, and says so when the compiler gives up.

If these failed, a run would train uncompiled, and its speed would be compared as a compiled one's.
"""

import dataclasses

import pytest
import torch
from tiny_run import SEQ_LEN, tiny_spec

from harness.results.records import VariantChoice
from harness.results.run import Run
from harness.training import compilation, loop
from harness.training.loop import train
from variants import registry
from variants.mlp.gelu import Gelu

pytestmark = [  # of the compiler itself
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings(
        "ignore:.*torch.autograd.function.Function.*should not be instantiated:DeprecationWarning"
    ),
]

N_LAYER = 12
OPTIONS = {"n_kv_head": 1, "window": 3}  # of those without a default


def attention_cases():
    """Return label, attention, options, and the number of distinct blocks."""
    cases = []
    for name in registry.files("attention"):
        fields = dataclasses.fields(registry.load("attention", name).Options)
        options = {field.name: OPTIONS[field.name] for field in fields if field.name in OPTIONS}
        n_distinct = N_LAYER if name == "differential" else 1  # a lambda for each layer
        cases.append((name, name, options, n_distinct))
    windows = [2 + i for i in range(N_LAYER)]
    dilations = [1 + i // 2 for i in range(N_LAYER)]
    dilated = {"window": windows, "dilation": dilations}
    cases.append(("twelve windows", "sliding_window", dilated, N_LAYER))
    pattern = {"window": 3, "layer_pattern": "SSSL"}
    cases.append(("window pattern", "sliding_window", pattern, 2))
    return cases


@pytest.fixture
def backend(monkeypatch):
    """Count graphs instead of compiling; return a list of whether each has open shapes."""
    has_open_shapes = []

    def count(graph, inputs):
        has_open_shapes.append(any(isinstance(value, torch.SymInt) for value in inputs))
        return graph.forward

    monkeypatch.setattr(loop, "COMPILER", count)
    with compilation.config.patch(recompile_limit=8):
        yield has_open_shapes
    torch.compiler.reset()


def compiled_run(folder, ranks, name="run", attention="mha", options=None, **train_settings):
    spec = tiny_spec(
        folder,
        steps=4,
        eval_every=2,
        compile=True,
        eval_tokens=11 * SEQ_LEN,
        **train_settings,
    )
    axes = spec.axes | {
        "attention": VariantChoice(name=attention, label=attention, options=options or {})
    }
    model = spec.model.model_copy(update={"n_layer": N_LAYER, "seq_len": 2 * SEQ_LEN})
    probes = spec.probes.model_copy(update={"eval_lengths": [4, 6]})
    spec = spec.model_copy(update={"axes": axes, "model": model, "probes": probes})
    run = Run(folder / name)
    run.path.mkdir()
    return run, train(run, spec, ranks)


@pytest.mark.parametrize(
    ("label", "attention", "options", "n_distinct"), attention_cases(), ids=str
)
def test_each_distinct_block_is_compiled_once(
    tmp_path, ranks, backend, label, attention, options, n_distinct
):
    """Evaluations, their smaller last batch and other lengths need no further graph."""
    _, probes = compiled_run(tmp_path, ranks, "run", attention, options)
    assert probes.compilation.n_graphs == n_distinct
    assert probes.compilation.n_graph_breaks == 0
    assert not probes.compilation.limit_reached
    assert probes.compilation.n_recompiles == n_distinct - 1
    assert probes.compilation.compile_s > 0
    assert backend == [False] * n_distinct


def test_evaluation_is_that_of_an_uncompiled_model(tmp_path, ranks, backend):
    compiled, _ = compiled_run(tmp_path, ranks)
    plain = tiny_spec(tmp_path, steps=4, eval_every=2, eval_tokens=11 * SEQ_LEN)
    model = plain.model.model_copy(update={"n_layer": N_LAYER, "seq_len": 2 * SEQ_LEN})
    plain = plain.model_copy(update={"model": model})
    run = Run(tmp_path / "plain")
    run.path.mkdir()
    assert train(run, plain, ranks).compilation is None
    first = compiled.evals()[0].val_loss
    assert first == run.evals()[0].val_loss
    losses = [line.val_loss for line in compiled.evals()]
    assert losses == pytest.approx([line.val_loss for line in run.evals()], rel=1e-6)


def test_limit_of_the_compiler_is_recorded(tmp_path, ranks, backend, monkeypatch):
    """A variant with a counter needs a graph at each call."""
    forward = Gelu.forward

    def counting(self, x):
        self.n_calls = getattr(self, "n_calls", 0) + 1
        return forward(self, x) * (1 + 1e-9 * self.n_calls)

    monkeypatch.setattr(Gelu, "forward", counting)
    monkeypatch.setattr(compilation, "SPARE_GRAPHS", -N_LAYER)
    with compilation.config.patch(recompile_limit=2):
        _, probes = compiled_run(tmp_path, ranks)
    assert probes.compilation.limit_reached
    assert probes.compilation.n_graphs == 2
