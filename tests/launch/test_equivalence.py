"""Faults of a parallelism that keep the loss falling, planted in runs on two processes: the gate catches each."""

import pytest

from harness.analysis import dataset as accounting
from harness.analysis import equivalence
from harness.results.store import Store

pytestmark = pytest.mark.distributed

DDP = "from variants.parallelism.ddp import DDP\n\n\nclass V(DDP):\n"
WRAP = "    def wrap(self, model, device, precision):\n"
FAULTS = {
    "forgets_the_all_reduce": DDP
    + "    def gradient_sync(self, model, enabled):\n        return model.no_sync()\n",
    "another_batch": "from dataclasses import replace\n\nimport torch.distributed as dist\n\n"
    "from harness.data.batches import Batches\n" + DDP + WRAP + "        right = Batches.offsets\n"
    "        if dist.get_rank() == 1:\n"
    "            Batches.offsets = lambda self, step: right(replace(self, seed=self.seed + 1), step)\n"
    "        return super().wrap(model, device, precision)\n",
    "untied": "import types\n\nimport torch.nn.functional as F\n"
    + DDP
    + WRAP
    + "        def logits(self, tokens):\n"
    "            return F.linear(self.hidden(tokens), self.wte.weight.detach().clone())\n\n"
    "        model.logits = types.MethodType(logits, model)\n"
    "        return super().wrap(model, device, precision)\n",
    "another_start": "import torch.distributed as dist\n\nfrom harness.training import warm_start as start\n"
    + DDP
    + WRAP
    + "        right = start.init_parameters\n"
    "        start.init_parameters = lambda gpt, seed, **more: right(gpt, seed + dist.get_rank(), **more)\n"
    "        return super().wrap(model, device, precision)\n",
    "drifts_late": "import torch.distributed as dist\n" + DDP + "    n_calls = 0\n\n"
    "    def gradient_sync(self, model, enabled):\n"
    "        self.n_calls += 1  # two micro-batches a step: only the last step forgets\n"
    "        return model.no_sync() if self.n_calls > 14 else super().gradient_sync(model, enabled)\n",
}


@pytest.fixture(scope="module")
def checked(harness):
    """Return the runs and the verdicts of a study of sound and faulty parallelisms, by the parallelism's label."""
    use = ", ".join(
        f'{{ variant = "{name}", nproc = 2, label = "{name}" }}'
        for name in ("ddp", "fsdp", *FAULTS)
    )
    study = harness.study('["learned"]', parallelism=f'["single", {use}]')
    (harness.folder / "mine/parallelism").mkdir(parents=True)
    for name, text in FAULTS.items():
        (harness.folder / f"mine/parallelism/{name}.py").write_text(text)
    settings = ("model.dropout=0.0", "model.n_layer=1", "train.micro_batch_size=4")
    harness("run", study, settings=settings, code=1)  # of one fault the run itself fails
    found = accounting.read(Store(harness.folder / "results"), "s")
    rows = {row.entry.removeprefix("learned-mha-"): row for row in equivalence.check(found)}
    return {run.labels["parallelism"]: run for run in found.runs}, rows


def test_sound_parallelisms_pass(checked):
    _, rows = checked
    for name in ("ddp", "fsdp"):
        row = rows[name]
        assert row.verdict in ("bitwise", "within tolerance"), row.reason
        assert row.initial_hash_equal and row.ranks_agree and row.against == "learned-mha-single"
        assert (
            row.max_rel_loss_dev_first5 < row.rel_loss_tolerance / 3
            and row.max_rel_grad_norm_dev_first5 < row.rel_grad_norm_tolerance / 3
        )


@pytest.mark.parametrize("name", ["forgets_the_all_reduce", "another_batch", "untied"])
def test_a_faulty_one_diverges_although_its_loss_falls(checked, name):
    runs, rows = checked
    assert runs[name].status == "done" and runs[name].steps.loss[-1] < runs[name].steps.loss[0]
    assert rows[name].verdict == "DIVERGES" and rows[name].initial_hash_equal
    assert rows[name].max_rel_grad_norm_dev_first5 > 100 * rows[name].rel_grad_norm_tolerance
    assert rows[name].ranks_agree == (name != "forgets_the_all_reduce")


def test_ranks_that_drift_apart_late_are_detected(checked):
    _, rows = checked
    row = rows["drifts_late"]
    assert row.verdict == "DIVERGES" and row.reason == "its ranks ended with different parameters"


def test_a_rank_that_starts_from_another_seed_fails_the_run(checked):
    runs, rows = checked
    run = runs["another_start"]
    assert run.status == "failed" and "ranks start from different parameters" in run.message
    assert "another_start" not in rows
