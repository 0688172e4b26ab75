"""Runs with other settings of the model and the training resume to the bit, and repeat."""

import pytest
import torch
from tiny_run import SEQ_LEN, join_alone, tiny_spec

from harness.distributed.process_group import DistributedContext
from harness.errors import ExitCode
from harness.results.run import Run
from harness.training.loop import train
from harness.training.signals import StopRequest, TrainingInterrupted

pytestmark = [  # of the compiler itself
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings(
        "ignore:.*torch.autograd.function.Function.*should not be instantiated:DeprecationWarning"
    ),
]

STEPS = 5
RAMP = {"start_tokens": 2 * SEQ_LEN, "steps": 3}
MODEL = ("tie_embeddings", "bias", "init_std")
SETTINGS = {
    "model": {"tie_embeddings": False, "bias": False, "init_std": 0.05},
    "terms": {"label_smoothing": 0.1, "z_loss": 1e-3},
    "chunks": {"loss_chunk": 5},
    "blocks": {"recompute": "block"},
    "attentions": {"recompute": "attention"},
    "average": {"ema_decay": 0.7},
    "linear": {"batch_ramp": RAMP},
    "compiled": {"compile": True},
    "doubling": {"batch_ramp": RAMP | {"growth": "doubling"}, "micro_batch_size": 2},
}
SETTINGS["all"] = {key: value for settings in SETTINGS.values() for key, value in settings.items()}


def start(folder, settings):
    folder.mkdir()
    of_model = {key: value for key, value in settings.items() if key in MODEL}
    of_training = {key: value for key, value in settings.items() if key not in MODEL}
    spec = tiny_spec(
        folder,
        steps=STEPS,
        eval_every=2,
        checkpoint_every=1,
        dropout=0.1,
        keep_checkpoints="full",
        **of_training,
    )
    model = spec.model.model_copy(update=of_model)
    run = Run(folder / "run")
    run.path.mkdir()
    run.create(spec.model_copy(update={"model": model}))
    run.mark_running()
    return run


def recorded(run):
    """Return all that a run records of its training, without times, and its final state."""
    steps = run.steps()
    columns = [steps.step, steps.loss, steps.tokens, steps.grad_norm, steps.lr]
    evals = [line.model_dump(exclude={"train_s", "eval_s"}) for line in run.evals()]
    weights = (run.newest_checkpoint / "model.safetensors").read_bytes()
    return [column.tolist() for column in columns], evals, weights


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Records and probes of uninterrupted runs with each of the settings, and without."""
    folder = tmp_path_factory.mktemp("whole")
    join_alone(folder)
    found = {}
    for name, settings in {"plain": {}, **SETTINGS}.items():
        run = start(folder / name, settings)
        probes = train(run, run.spec, DistributedContext(0, 1, torch.device("cpu")))
        found[name] = recorded(run), probes
    torch.distributed.destroy_process_group()
    return found


@pytest.fixture(autouse=True, scope="module")
def _fast_peak():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.probes.peak_flops.SIZE", 8)
        patch.setattr("harness.training.loop.COMPILER", "aot_eager")
        yield


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_that_is_resumed_at_each_step_is_the_same(tmp_path, ranks, whole, name):
    """State that a checkpoint lacks, or a step that depends on the attempt, would show here."""
    run = start(tmp_path / name, SETTINGS[name])
    for _ in range(STEPS):
        with pytest.raises(TrainingInterrupted):
            train(run, run.spec, ranks, StopRequest(ExitCode.INTERRUPTED))
        run.mark_running()
    probes = train(run, run.spec, ranks)
    expected, expected_probes = whole[name]
    assert recorded(run) == expected
    assert probes.final_hashes == expected_probes.final_hashes
    assert probes.flops_per_token_counted == expected_probes.flops_per_token_counted
    exclude = {"resident_peak"}
    memory = probes.memory[0].model_dump(exclude=exclude)
    assert memory == expected_probes.memory[0].model_dump(exclude=exclude)


def test_every_setting_trains_another_model(whole):
    """Otherwise a setting would be accepted and ignored. An average is only evaluated.

    Chunks of the loss are summed in another order. Activations are the same when computed again,
    and compiled blocks are the same model.
    """
    hashes = {name: probes.final_hashes[0] for name, (_, probes) in whole.items()}
    del hashes["compiled"]
    for name in ("average", "blocks", "attentions"):
        assert hashes.pop(name) == hashes["plain"], name
    assert len(set(hashes.values())) == len(hashes)
