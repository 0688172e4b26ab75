"""A state goes from one parallelism to the next, over all that lie in the folder, and each trains on from it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness.distributed.process_group import DistributedContext, join
from harness.model.builder import ModelBuilder
from harness.model.initialization import check_same_parameters, init_parameters
from harness.results.records import TrainSettings, VariantChoice
from harness.training import optimizer as optim
from harness.training.checkpointing import load_state, save_state
from variants import registry
from variants.base import ModelShape

pytestmark = pytest.mark.distributed

ROOT = Path(__file__).parents[2]
SHAPE = ModelShape(
    n_layer=2, n_head=4, n_embd=16, seq_len=8, vocab_size=17
)  # ranks have unequal shares of 17 rows
AXES = {
    "positional": "t5",
    "attention": "differential",
    "mlp": "swiglu",
}  # what is divided in every way that there is


def runnable_parallelisms():
    """Return the parallelisms that run here, with the fewest processes that each takes beyond one."""
    found = {}
    for name in registry.files("parallelism"):
        cls = registry.load("parallelism", name)
        possible = [
            n for n in (2, 4) if "cpu" in cls.devices and not cls.check(SHAPE, cls.Options(nproc=n))
        ]
        if possible:
            found[name] = possible[0]
    return found


TAKERS = runnable_parallelisms()


def make(ranks, parallelism="single", seed=0):
    options = {"mlp": {"width": 24}}
    axes = {
        axis: VariantChoice(name=use, label=use, options=options.get(axis, {}))
        for axis, use in AXES.items()
    }
    axes["parallelism"] = VariantChoice(
        name=parallelism, label=parallelism, options={"nproc": ranks.world_size}
    )
    parts = ModelBuilder(SHAPE, axes, [])
    gpt, spread = parts.model(), parts.parallelism()
    model = spread.wrap(gpt, ranks.device, "fp32")
    init_parameters(gpt, seed, full_model=parts.model())
    return (
        gpt,
        model,
        optim.adamw(gpt, TrainSettings(steps=9, tokens_per_step=8, lr=1e-2), spread),
        spread,
    )


def step(model, optimizer, spread, n=1):
    """Train on n batches, of which each is another and the same on all ranks; return the losses."""
    losses = []
    for i in range(n):
        tokens = torch.arange(4 * SHAPE.seq_len).view(4, -1) * (i + 2) % SHAPE.vocab_size
        with spread.gradient_sync(model, enabled=True):
            loss = model(tokens, tokens.roll(-1, 1)).mean()
            loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return losses


def relay(root, names):
    """Take over what the one before has saved, save it, and train on."""
    with join("cpu") as ranks:
        for name in names:
            gpt, model, optimizer, spread = make(ranks, name, seed=1)
            before = (root / "newest").read_text()
            record = {"from": before, "n_done": load_state(root / before, gpt, optimizer)}
            record["hash"] = check_same_parameters(gpt, ranks)
            if ranks.is_first:
                (root / name).mkdir()
            ranks.gather(None)
            save_state(root / name, record["n_done"], gpt, optimizer)
            record["losses"] = step(model, optimizer, spread, 3)
            if ranks.is_first:
                (root / f"{name}.json").write_text(json.dumps(record))
                (root / "newest").write_text(name)
            ranks.gather(None)


@pytest.fixture(scope="module")
def relayed(tmp_path_factory):
    """Two steps on one process, then `relay` on two and on four; return the folder and what the one has."""
    root = tmp_path_factory.mktemp("relay")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{root}/rendezvous", rank=0, world_size=1
    )
    ranks = DistributedContext(0, 1, torch.device("cpu"))
    gpt, model, optimizer, spread = make(ranks)
    step(model, optimizer, spread, 2)
    (root / "first").mkdir()
    save_state(root / "first", 2, gpt, optimizer)
    (root / "newest").write_text("first")
    hashed = check_same_parameters(gpt, ranks)
    losses = step(model, optimizer, spread, 3)
    torch.distributed.destroy_process_group()
    for n in (2, 4):
        names = [name for name, least in TAKERS.items() if least == n]
        code = f"from pathlib import Path\nfrom {Path(__file__).stem} import relay\nrelay(Path({str(root)!r}), {names})\n"
        (root / "script.py").write_text(code)
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={n}",
        ]
        env = os.environ | {"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(
            [*command, str(root / "script.py")],
            env=env,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr[-6000:]
    return root, hashed, losses


@pytest.mark.parametrize("name", TAKERS)
def test_a_state_is_taken_over_bit_for_bit_from_any_other_parallelism(relayed, name):
    """Whatever way each rank's part lies in the whole, and in whatever order the rows of q, k and v are held."""
    root, hashed, _ = relayed
    record = json.loads((root / f"{name}.json").read_text())
    assert record["hash"] == hashed and record["n_done"] == 2 and record["from"] != name


@pytest.mark.parametrize("name", TAKERS)
def test_training_goes_on_from_the_optimizers_state_too(relayed, name):
    """With fresh moments, the steps after it would be as long as the first of all, and nobody would see why."""
    root, _, losses = relayed
    assert json.loads((root / f"{name}.json").read_text())["losses"] == pytest.approx(
        losses, rel=1e-5
    )


def test_the_relay_comes_back_to_one_process_bit_for_bit(relayed, ranks):
    """Each parameter, both moments, and the count of steps, through every form that a state can have."""
    root, _, _ = relayed
    found = {}
    for name in ("first", (root / "newest").read_text()):
        gpt, _, optimizer, _ = make(ranks, seed=1)
        assert load_state(root / name, gpt, optimizer) == 2
        found[name] = [
            *gpt.parameters(),
            *(v for p in gpt.parameters() for v in optimizer.state[p].values()),
        ]
    one, other = found.values()
    assert len(one) == len(other) == 4 * len(list(gpt.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
