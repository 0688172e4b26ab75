"""If these failed, a number of summary.json would not be what its name says."""

import numpy as np
import pytest

from harness.analysis import dataset, equivalence, metrics
from harness.results.records.entries import EntryMetrics


def measured(fake) -> dict[str, EntryMetrics]:
    study = dataset.read(fake.write().store, "tiny")
    return {entry.label: metrics.result(entry) for entry in study.entries}


def run_of(fake, entry, seed):
    return next(
        run for run in fake.store.runs("tiny") if run.run_id.startswith(f"{entry}-s{seed}-")
    )


def test_final_loss_throughput_and_memory_of_an_entry(one_axis):
    found = measured(one_axis)["learned-mha-single"]
    runs = [run_of(one_axis, "learned-mha-single", seed) for seed in (0, 1, 2)]
    assert found.val_loss.mean == pytest.approx(np.mean([run.evals()[-1].val_loss for run in runs]))
    assert found.val_loss.n == 3 and found.val_loss.ci95
    assert found.bits_per_byte.mean == pytest.approx(found.val_loss.mean / np.log(2))
    medians = [np.median(run.steps().step_s[one_axis.n_warmup :]) for run in runs]
    step_s = np.prod(medians) ** (1 / 3)
    assert found.step_s.median == pytest.approx(step_s)
    assert found.tokens_per_s.median == pytest.approx(one_axis.tokens / step_s)
    low, high = found.tokens_per_s.ci95
    assert (one_axis.tokens / high, one_axis.tokens / low) == pytest.approx(found.step_s.ci95)
    assert low <= found.tokens_per_s.median <= high
    assert found.peak_memory_bytes == max(rank.peak for run in runs for rank in run.probes.memory)
    assert found.mfu == pytest.approx(1.4e6 * found.tokens_per_s.median / 1e11)
    model = runs[0].spec.model
    attention = 12 * model.n_layer * model.n_head * (model.n_embd // model.n_head) * model.seq_len
    full = 6 * runs[0].probes.parameters + attention
    assert found.mfu_full_attention == pytest.approx(full * found.tokens_per_s.median / 1e11)


def test_the_fullest_rank_counts(fake):
    fake.axes, fake.seeds = {"parallelism": ["fsdp2"]}, (0,)
    found = measured(fake)["fsdp2"]
    assert found.memory == run_of(fake, "fsdp2", 0).probes.memory[1]
    assert found.peak_memory_bytes == found.memory.peak


def test_an_unknown_peak_gives_no_mfu(one_axis):
    one_axis.peak = None
    found = measured(one_axis)["learned-mha-single"]
    assert found.mfu is None and found.peak_flops is None and found.tokens_per_s
    assert found.mfu_full_attention is None


@pytest.mark.parametrize("status", ["failed", "interrupted", "running", "pending"])
def test_a_run_that_is_not_done_gives_no_number(one_axis, status):
    """It has evaluations and step times on disk, and none of them may get into a table."""
    entry = "learned-gqa2-single"
    one_axis.outcome = {f"{entry}-s{seed}": (status, "nan", "broke") for seed in (0, 1, 2)}
    found = measured(one_axis)[entry]
    assert found.status == status and found.seeds == [0, 1, 2] and found.seeds_done == []
    for name in (
        "val_loss",
        "bits_per_byte",
        "tokens_per_s",
        "step_s",
        "peak_memory_bytes",
        "memory",
        "mfu",
        "mfu_full_attention",
    ):
        assert getattr(found, name) is None


def test_only_done_runs_count(one_axis):
    entry = "learned-gqa2-single"
    one_axis.outcome = {f"{entry}-s1": ("failed", "nan", "broke")}
    found = measured(one_axis)[entry]
    expected = [run_of(one_axis, entry, seed).evals()[-1].val_loss for seed in (0, 2)]
    assert found.seeds_done == [0, 2]
    assert found.val_loss.mean == pytest.approx(np.mean(expected)) and found.val_loss.n == 2


def test_warm_up_only_runs_have_no_throughput(one_axis):
    one_axis.n_warmup = one_axis.steps
    found = measured(one_axis)["learned-mha-single"]
    assert (
        found.tokens_per_s is None and found.step_s is None and found.mfu is None and found.val_loss
    )


def test_comparison_pairs_seeds_and_counts_the_unpaired(one_axis):
    one_axis.outcome = {"learned-gqa2-single-s0": ("failed", "oom", "no memory")}
    (found,) = metrics.comparisons(dataset.read(one_axis.write().store, "tiny"))
    loss = {
        (entry, seed): run_of(one_axis, f"learned-{entry}-single", seed).evals()[-1].val_loss
        for entry in ("mha", "gqa2")
        for seed in (1, 2)
    }
    expected = np.mean([loss["gqa2", seed] - loss["mha", seed] for seed in (1, 2)])
    assert (found.entry, found.against, found.differs) == (
        "learned-gqa2-single",
        "learned-mha-single",
        ["attention"],
    )
    assert found.seeds == [1, 2] and found.seeds_unpaired == 1
    assert found.val_loss_difference.mean == pytest.approx(expected)
    step_s = {
        (entry, seed): np.median(
            run_of(one_axis, f"learned-{entry}-single", seed).steps().step_s[2:]
        )
        for entry in ("mha", "gqa2")
        for seed in (1, 2)
    }
    ratios = [step_s["mha", seed] / step_s["gqa2", seed] for seed in (1, 2)]
    assert found.tokens_per_s_ratio.ratio == pytest.approx(np.sqrt(np.prod(ratios)))
    assert found.peak_memory_ratio < 1


def test_comparison_of_one_seed_has_no_interval(one_axis):
    one_axis.seeds = (0,)
    (found,) = metrics.comparisons(dataset.read(one_axis.write().store, "tiny"))
    assert found.val_loss_difference.ci95 is None and found.excludes_zero is None


def test_a_failed_baseline_leaves_no_difference(one_axis):
    one_axis.outcome = {
        f"learned-mha-single-s{seed}": ("failed", "nan", "broke") for seed in (0, 1, 2)
    }
    (found,) = metrics.comparisons(dataset.read(one_axis.write().store, "tiny"))
    assert (
        found.val_loss_difference is None
        and found.tokens_per_s_ratio is None
        and found.peak_memory_ratio is None
    )
    assert found.seeds == [] and found.seeds_unpaired == 3


def test_each_axis_is_compared_with_its_baseline_label(fake):
    fake.axes = {"norm": ["layer", "rms"], "mlp": ["gelu", "swiglu"]}
    fake.baseline, fake.seeds = {"norm": "layer"}, (0,)
    found = metrics.comparisons(dataset.read(fake.write().store, "tiny"))
    assert [(c.entry, c.against) for c in found] == [
        ("rms-gelu", "layer-gelu"),
        ("rms-swiglu", "layer-swiglu"),
    ]
    assert equivalence.check(dataset.read(fake.store, "tiny")) == []
