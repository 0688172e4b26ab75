"""A state passes through every parallelism, and each continues training from it."""

import itertools
import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from forked_ranks import run_script
from optimizers import make_optimizer
from saved_state import save_state
from tiny_run import join_alone

from harness.distributed.process_group import DistributedContext, join
from harness.model.builder import ModelBuilder
from harness.model.initialization import check_same_parameters, init_parameters
from harness.results.records import TrainSettings, VariantChoice
from harness.training.averaging import ParameterAverage
from harness.training.checkpointing import load_state
from variants import registry
from variants.base import ModelShape

SHAPE = ModelShape(
    n_layer=2,
    n_head=4,
    n_embd=16,
    seq_len=8,
    vocab_size=17,  # ranks hold unequal shards of 17 rows
)
# Together these parameters are sharded in every way that exists.
AXES = {
    "positional": VariantChoice(name="t5", label="t5", options={}),
    "attention": VariantChoice(name="differential", label="differential", options={}),
    "mlp": VariantChoice(name="swiglu", label="swiglu", options={"width": 24}),
}


def runnable_parallelisms():
    """Return the parallelisms that run on CPUs, each with its fewest processes above one."""
    parallelisms = {}
    for name in registry.files("parallelism"):
        cls = registry.load("parallelism", name)
        if "cpu" not in cls.devices:
            continue
        possible = [n for n in (2, 4) if not cls.check(SHAPE, cls.Options(nproc=n))]
        if possible:
            parallelisms[name] = possible[0]
    return parallelisms


PARALLELISMS = runnable_parallelisms()
OPTIMIZERS = sorted(registry.files("optimizer"))


def make(ranks, optimizer, name="single", seed=0):
    """Return the model, the wrapped model, the optimizer, and the parallelism."""
    options = {"nproc": ranks.world_size}
    choice = VariantChoice(name=name, label=name, options=options)
    builder = ModelBuilder(SHAPE, AXES | {"parallelism": choice}, [])
    gpt = builder.model()
    parallelism = builder.parallelism()
    model = parallelism.wrap(gpt, ranks.device, "fp32")
    init_parameters(gpt, seed, full_model=builder.model())
    settings = TrainSettings(steps=9, tokens_per_step=8, lr=1e-2)
    made = make_optimizer(gpt, settings, optimizer, whole=builder.model(), parallelism=parallelism)
    return gpt, model, made, parallelism


def train_steps(model, optimizer, parallelism, n):
    """Train on n different batches, the same on all ranks; return the losses."""
    losses = []
    for i in range(n):
        tokens = torch.arange(4 * SHAPE.seq_len).view(4, -1) * (i + 2) % SHAPE.vocab_size
        with parallelism.gradient_sync(model, enabled=True):
            loss = model(tokens, tokens.roll(-1, 1)).mean()
            loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return losses


def relay(root, names):
    """With each parallelism in turn, load the state of the one before, save it, and train on."""
    with join("cpu") as ranks:
        for optimizer, name in itertools.product(OPTIMIZERS, names):
            pass_on(root / optimizer, ranks, optimizer, name)


def pass_on(root, ranks, optimizer_name, name):
    gpt, model, optimizer, parallelism = make(ranks, optimizer_name, name, seed=1)
    before = (root / "newest").read_text()
    average = ParameterAverage(gpt, decay=0.5)
    n_done = load_state(root / before, gpt, optimizer, average)
    record = {"from": before, "n_done": n_done, "hash": check_same_parameters(gpt, ranks)}
    with average.applied():
        record["average"] = check_same_parameters(gpt, ranks)
    if ranks.is_first:
        (root / name).mkdir()
    ranks.barrier()
    save_state(root / name, n_done, gpt, optimizer, average)
    record["losses"] = train_steps(model, optimizer, parallelism, 3)
    if ranks.is_first:
        (root / f"{name}.json").write_text(json.dumps(record))
        (root / "newest").write_text(name)
    ranks.barrier()


SCRIPT = """
import json, sys
from functools import partial
from pathlib import Path
from forked_ranks import fork_ranks
from test_state_relay import relay

for world_size, names in json.loads(sys.argv[2]):
    fork_ranks(world_size, partial(relay, Path(sys.argv[1]), names))
"""


@pytest.fixture(scope="module")
def relayed(tmp_path_factory):
    """Train two steps on one process, then `relay` on two and on four.

    Returns, by optimizer, the folder, and the single process's hashes of the parameters and of
    their average, and its next losses.
    """
    root = tmp_path_factory.mktemp("relay")
    join_alone(root)
    ranks = DistributedContext(0, 1, torch.device("cpu"))
    relays = {}
    for name in OPTIMIZERS:
        gpt, model, optimizer, parallelism = make(ranks, name)
        average = ParameterAverage(gpt, decay=0.5)
        train_steps(model, optimizer, parallelism, 2)
        (root / name / "first").mkdir(parents=True)
        save_state(root / name / "first", 2, gpt, optimizer, average)
        (root / name / "newest").write_text("first")
        hashes = {"hash": check_same_parameters(gpt, ranks)}
        with average.applied():
            hashes["average"] = check_same_parameters(gpt, ranks)
        assert len(set(hashes.values())) == 2
        losses = train_steps(model, optimizer, parallelism, 3)
        relays[name] = (root / name, hashes, losses)
    dist.destroy_process_group()
    names = [(n, [name for name, fewest in PARALLELISMS.items() if fewest == n]) for n in (2, 4)]
    run_script(SCRIPT, root, root, json.dumps(names), paths=(Path(__file__).parent,))
    return relays


@pytest.mark.distributed
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", PARALLELISMS)
def test_state_is_loaded_bit_for_bit_by_every_parallelism(relayed, name, optimizer):
    """However the parameters are sharded, and in whatever order ranks hold rows of q, k and v."""
    root, hashes, _ = relayed[optimizer]
    record = json.loads((root / f"{name}.json").read_text())
    assert {key: record[key] for key in hashes} == hashes
    assert record["n_done"] == 2
    assert record["from"] != name


@pytest.mark.distributed
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", PARALLELISMS)
def test_training_continues_from_the_optimizer_state(relayed, name, optimizer):
    """With new moments, the next steps would be as long as the first ones."""
    root, _, losses = relayed[optimizer]
    record = json.loads((root / f"{name}.json").read_text())
    assert record["losses"] == pytest.approx(losses, rel=1e-5)


@pytest.mark.distributed
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_returns_to_one_process_bit_for_bit(relayed, ranks, name):
    """Each parameter, its state, and the step count, after every form that a state can have."""
    root, _, _ = relayed[name]
    states = []
    for folder in ("first", (root / "newest").read_text()):
        gpt, _, optimizer, _ = make(ranks, name, seed=1)
        assert load_state(root / folder, gpt, optimizer) == 2
        tensors = list(gpt.parameters())
        for parameter in gpt.parameters():
            tensors.extend(optimizer.state[parameter].values())
        assert len(tensors) >= 2 * len(list(gpt.parameters()))
        states.append(tensors)
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
