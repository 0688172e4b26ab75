"""Verdicts on real runs whose truth is known; `make calibrate` takes 20 seeds of each.

If these failed, the report would find a missing effect, or miss an existing one.
"""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from harness.analysis import dataset, hypotheses
from harness.results.store import Store
from variants import registry
from variants.base import ModelShape

SEEDS = list(range(20 if "CALIBRATE" in os.environ else 3))
BASE, AGAIN, RENAMED, SLOW = (
    "learned-mha-gelu-single",
    "learned-again-gelu-single",
    "learned-mha-renamed-single",
    "learned-mha-tenth-single",
)
STUDY = f"""
[study]
name = "known"
seeds = {SEEDS}
equivalence_margin = {{ val_loss = 0.02, tokens_per_s = 0.05, peak_memory = 0.01 }}
variant_paths = ["mine"]
[model]
n_layer = 1
n_head = 2
n_embd = 32
seq_len = 32
[data]
corpus = "text.txt"
[train]
steps = 60
tokens_per_step = 512
lr = 5e-3
warmup_steps = 5
weight_decay = 0.0
eval_every = 60
eval_tokens = 4096
[launch]
keep_checkpoints = "none"
[axes]
attention = ["mha", {{ variant = "mha", label = "again" }}]
[[include]]
mlp = "renamed"
[[include]]
mlp = "tenth"
"""

# The same as gelu under other names. Initial values depend on the name, so they differ.
MINE = {
    "renamed": """
from variants.base import InitSpec, residual_std
from variants.linear import Linear
from variants.mlp.gelu import Gelu


class Renamed(Gelu):
    def __init__(self, shape, options):
        super().__init__(shape, options)
        del self.c_fc, self.c_proj
        self.up = Linear(shape.n_embd, 4 * shape.n_embd)
        self.down = Linear(4 * shape.n_embd, shape.n_embd)

    def init_specs(self):
        return {"down.weight": InitSpec(std=self.proj_std)}

    def forward(self, x_BTC):
        return self.down(self.activation(self.up(x_BTC)))
""",
    # Weights are stored ten times as large as they are applied. A step of AdamW has the size of the
    # learning rate for any gradient, so it changes the applied weights by a tenth of it.
    "tenth": """
import torch.nn.functional as F

from variants.base import InitSpec
from variants.mlp.gelu import Gelu


class Tenth(Gelu):
    def init_specs(self):
        return {"c_fc.weight": InitSpec(std=0.2), "c_proj.weight": InitSpec(std=10 * self.proj_std)}

    def forward(self, x_BTC):
        h_BTI = self.activation(F.linear(x_BTC, self.c_fc.weight / 10, self.c_fc.bias / 10))
        return F.linear(h_BTI, self.c_proj.weight / 10, self.c_proj.bias / 10)
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The study's folder with the user's own variants."""
    folder = tmp_path_factory.mktemp("known")
    (folder / "mine" / "mlp").mkdir(parents=True)
    for name, text in MINE.items():
        (folder / "mine" / "mlp" / f"{name}.py").write_text(f'"""Made for a test."""\n{text}')
    (folder / "study.toml").write_text(STUDY)
    lines = [
        f"the {a} {b} sees {c}.\n"
        for a in ("old", "red", "sad")
        for b in ("cat", "owl")
        for c in range(200)
    ]
    random.Random(0).shuffle(lines)
    (folder / "text.txt").write_text(
        "".join(lines)
    )  # the next character depends on more than the last one
    return folder


@pytest.fixture(scope="module")
def store(folder):
    """The results of the study, run as a user runs it."""
    command = [sys.executable, "-m", "harness", "run", "study.toml"]
    environment = os.environ | {"ABLATIONS_CACHE": str(folder / "cache")}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return Store(folder / "results")


@pytest.fixture(scope="module")
def judged(store):
    return hypotheses.test_hypotheses(dataset.read(store, "known"))


def final_losses(store, entry):
    """Return the last validation loss of each seed, as the files have it."""
    found = {}
    for path in sorted((store.root / "known").glob(f"{entry}-s*/eval.jsonl")):
        seed = json.loads((path.parent / "spec.json").read_text())["seed"]
        found[seed] = json.loads(path.read_text().splitlines()[-1])["val_loss"]
    assert sorted(found) == SEEDS
    return np.array([found[seed] for seed in SEEDS])


def test_one_variant_under_two_labels_is_equivalent(store, judged):
    assert (final_losses(store, AGAIN) == final_losses(store, BASE)).all()
    assert judged["val_loss"].entries[AGAIN].verdict == "equivalent"
    assert judged["peak_memory"].entries[AGAIN].verdict == "equivalent"


def test_other_initial_values_give_no_false_verdict(store, judged):
    assert (final_losses(store, RENAMED) != final_losses(store, BASE)).all()
    assert judged["val_loss"].entries[RENAMED].verdict in ("equivalent", "unresolved")


@pytest.mark.skipif(
    "CALIBRATE" not in os.environ,
    reason="make calibrate: chance makes it fail one time in twenty",
)
@pytest.mark.parametrize("entry", [AGAIN, RENAMED])
def test_same_computation_has_no_speed_verdict(judged, entry):
    assert judged["tokens_per_s"].entries[entry].verdict in ("equivalent", "unresolved")


def test_a_tenth_of_the_learning_rate_is_detected(store, judged):
    differences = final_losses(store, SLOW) - final_losses(store, BASE)
    verdict = judged["val_loss"].entries[SLOW]
    assert verdict.verdict == "worse" and verdict.difference.mean > 0
    assert verdict.difference.mean == pytest.approx(differences.mean(), rel=1e-12)
    assert verdict.difference.ci95[0] <= differences.mean() <= verdict.difference.ci95[1]


def test_slow_variant_is_measured_as_slow_as_it_is(folder):
    """A step of AdamW moves it as far as a tenth of the learning rate moves the plain one."""
    shape = ModelShape(n_layer=1, n_head=2, n_embd=8, seq_len=4, dropout=0.0, vocab_size=11)
    x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    outputs = []
    for name, scale, lr in (("tenth", 10.0, 0.05), ("gelu", 1.0, 0.005)):
        cls = registry.load("mlp", name, [folder / "mine"])
        mlp = cls(shape, cls.Options())
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in mlp.parameters():
                parameter.copy_(scale * torch.randn(parameter.shape, generator=draw))
        optimizer = torch.optim.AdamW(mlp.parameters(), lr=lr, weight_decay=0.0, eps=1e-12)
        for _ in range(5):
            optimizer.zero_grad()
            mlp(x).square().sum().backward()
            optimizer.step()
        outputs.append(mlp(x).detach())
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
