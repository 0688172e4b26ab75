"""Without these, a parallelism that trains another model could pass the equivalence check.

Each planted fault keeps the loss falling.
"""

from textwrap import dedent

import pytest

from harness.analysis import dataset, equivalence
from harness.results.store import Store

pytestmark = pytest.mark.distributed

FAULTS = {
    "forgets_the_all_reduce": """
        from variants.parallelism.ddp import DDP

        class V(DDP):
            def gradient_sync(self, model, enabled):
                return model.no_sync()
    """,
    "another_batch": """
        from dataclasses import replace

        import torch.distributed as dist

        from harness.data.batches import Batches
        from variants.parallelism.ddp import DDP

        class V(DDP):
            def wrap(self, model, device, precision):
                offsets = Batches.offsets
                if dist.get_rank() == 1:
                    Batches.offsets = lambda self, step: offsets(
                        replace(self, seed=self.seed + 1), step
                    )
                return super().wrap(model, device, precision)
    """,
    "untied": """
        import types

        import torch.nn.functional as F

        from variants.parallelism.ddp import DDP

        class V(DDP):
            def wrap(self, model, device, precision):
                def project(self, hidden):
                    return F.linear(hidden, self.wte.weight.detach().clone())

                model._project = types.MethodType(project, model)
                return super().wrap(model, device, precision)
    """,
    "another_start": """
        import torch.distributed as dist

        from harness.training import warm_start
        from variants.parallelism.ddp import DDP

        class V(DDP):
            def wrap(self, model, device, precision):
                init = warm_start.init_parameters
                warm_start.init_parameters = lambda gpt, seed, **more: init(
                    gpt, seed + dist.get_rank(), **more
                )
                return super().wrap(model, device, precision)
    """,
    "drifts_late": """
        import torch.distributed as dist

        from variants.parallelism.ddp import DDP

        class V(DDP):
            n_calls = 0

            def gradient_sync(self, model, enabled):
                self.n_calls += 1  # two micro-batches a step: only the last step forgets
                if self.n_calls > 14:
                    return model.no_sync()
                return super().gradient_sync(model, enabled)
    """,
}


@pytest.fixture(scope="module")
def checked(harness):
    """Return the runs and the verdicts of correct and faulty parallelisms, by label."""
    variants = ", ".join(
        f'{{ variant = "{name}", nproc = 2, label = "{name}" }}'
        for name in ("ddp", "fsdp", *FAULTS)
    )
    study = harness.study('["learned"]', parallelism=f'["single", {variants}]')
    for name, text in FAULTS.items():
        (harness.folder / f"mine/parallelism/{name}.py").write_text(dedent(text))
    settings = ("model.dropout=0.0", "model.n_layer=1", "train.micro_batch_size=4")
    harness("run", study, settings=settings, code=1)  # one faulty run fails
    results = dataset.read(Store(harness.folder / "results"), "s")
    rows = {row.entry.removeprefix("learned-mha-"): row for row in equivalence.check(results)}
    return {run.labels["parallelism"]: run for run in results.runs}, rows


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
