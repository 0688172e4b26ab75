"""If these failed, a number of summary.json would not be what its name says."""

import json

import numpy as np
import pytest

from harness.report import accounting, results
from harness.report.results import Result


def measured(fake) -> dict[str, Result]:
    study = accounting.read(fake.write().store, "tiny")
    return {entry.label: results.result(entry) for entry in study.entries}


def edit_lines(path, change) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        change(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def run_of(fake, entry, seed):
    return next(run for run in fake.store.runs("tiny") if run.run_id.startswith(f"{entry}-s{seed}-"))


def test_final_loss_throughput_and_memory_of_an_entry(one_axis):
    found = measured(one_axis)["learned-mha-single"]
    runs = [run_of(one_axis, "learned-mha-single", seed) for seed in (0, 1, 2)]
    assert found.val_loss.mean == pytest.approx(np.mean([run.evals()[-1]["val_loss"] for run in runs]))
    assert found.val_loss.n == 3 and found.val_loss.ci95
    assert found.bits_per_byte.mean == pytest.approx(found.val_loss.mean / np.log(2))
    step_s = np.concatenate([run.steps().step_s[one_axis.n_warmup :] for run in runs])
    assert found.step_s.median == pytest.approx(np.median(step_s))
    assert found.tokens_per_s.median == pytest.approx(one_axis.tokens / np.median(step_s))
    low, high = found.tokens_per_s.ci95
    assert (one_axis.tokens / high, one_axis.tokens / low) == pytest.approx(found.step_s.ci95)
    assert low <= found.tokens_per_s.median <= high
    assert found.peak_memory_bytes == max(rank["peak"] for run in runs for rank in run.probes["memory"])
    assert found.mfu == pytest.approx(1.4e6 * found.tokens_per_s.median / 1e11)


def test_the_fullest_rank_counts(fake):
    fake.axes, fake.seeds = {"parallelism": ["fsdp2"]}, (0,)
    found = measured(fake)["fsdp2"]
    assert found.memory == run_of(fake, "fsdp2", 0).probes["memory"][1]
    assert found.peak_memory_bytes == found.memory["peak"]


def test_an_unknown_peak_gives_no_mfu(one_axis):
    one_axis.peak = None
    found = measured(one_axis)["learned-mha-single"]
    assert found.mfu is None and found.peak_flops is None and found.tokens_per_s


@pytest.mark.parametrize("status", ["failed", "interrupted", "running", "pending"])
def test_a_run_that_is_not_done_gives_no_number(one_axis, status):
    """It has evaluations and step times on disk, and none of them may get into a table."""
    entry = "learned-gqa2-single"
    one_axis.outcome = {f"{entry}-s{seed}": (status, "nan", "broke") for seed in (0, 1, 2)}
    found = measured(one_axis)[entry]
    assert found.status == status and found.seeds == [0, 1, 2] and found.seeds_done == []
    for name in ("val_loss", "bits_per_byte", "tokens_per_s", "step_s", "peak_memory_bytes", "memory", "mfu"):
        assert getattr(found, name) is None


def test_only_done_runs_count(one_axis):
    entry = "learned-gqa2-single"
    one_axis.outcome = {f"{entry}-s1": ("failed", "nan", "broke")}
    found = measured(one_axis)[entry]
    expected = [run_of(one_axis, entry, seed).evals()[-1]["val_loss"] for seed in (0, 2)]
    assert found.seeds_done == [0, 2]
    assert found.val_loss.mean == pytest.approx(np.mean(expected)) and found.val_loss.n == 2


def test_runs_of_warm_up_alone_have_no_throughput(one_axis):
    one_axis.n_warmup = one_axis.steps
    found = measured(one_axis)["learned-mha-single"]
    assert found.tokens_per_s is None and found.step_s is None and found.mfu is None and found.val_loss


def test_comparison_pairs_seeds_and_counts_the_unpaired(one_axis):
    one_axis.outcome = {"learned-gqa2-single-s0": ("failed", "oom", "no memory")}
    (found,) = results.comparisons(accounting.read(one_axis.write().store, "tiny"))
    loss = {
        (entry, seed): run_of(one_axis, f"learned-{entry}-single", seed).evals()[-1]["val_loss"]
        for entry in ("mha", "gqa2")
        for seed in (1, 2)
    }
    expected = np.mean([loss["gqa2", seed] - loss["mha", seed] for seed in (1, 2)])
    assert (found.label, found.against, found.differs) == ("learned-gqa2-single", "learned-mha-single", ["attention"])
    assert found.seeds == [1, 2] and found.seeds_unpaired == 1
    assert found.val_loss_difference.mean == pytest.approx(expected)
    step_s = {
        entry: np.concatenate([run_of(one_axis, f"learned-{entry}-single", s).steps().step_s[2:] for s in (1, 2)])
        for entry in ("mha", "gqa2")
    }
    assert found.tokens_per_s_ratio.ratio == pytest.approx(np.median(step_s["mha"]) / np.median(step_s["gqa2"]))
    assert found.peak_memory_ratio < 1


def test_a_comparison_of_one_seed_has_no_interval_and_says_nothing_of_zero(one_axis):
    one_axis.seeds = (0,)
    (found,) = results.comparisons(accounting.read(one_axis.write().store, "tiny"))
    assert found.val_loss_difference.ci95 is None and found.excludes_zero is None


@pytest.mark.parametrize(
    ("bounds", "expected"), [((-2.0, -1.0), True), ((1.0, 2.0), True), ((-1.0, 1.0), False), ((0.0, 0.0), False)]
)
def test_excludes_zero(bounds, expected):
    assert results.excludes_zero(results.Mean(0.0, bounds, 3)) is expected


def test_a_failed_baseline_leaves_no_difference(one_axis):
    one_axis.outcome = {f"learned-mha-single-s{seed}": ("failed", "nan", "broke") for seed in (0, 1, 2)}
    (found,) = results.comparisons(accounting.read(one_axis.write().store, "tiny"))
    assert found.val_loss_difference is None and found.tokens_per_s_ratio is None and found.peak_memory_ratio is None
    assert found.seeds == [] and found.seeds_unpaired == 3


def test_any_axis_is_compared_with_what_the_baseline_states(fake):
    fake.axes = {"norm": ["layer", "rms"], "mlp": ["gelu", "swiglu"]}
    fake.baseline, fake.seeds = {"norm": "layer"}, (0,)
    found = results.comparisons(accounting.read(fake.write().store, "tiny"))
    assert [(c.label, c.against) for c in found] == [("rms-gelu", "layer-gelu"), ("rms-swiglu", "layer-swiglu")]
    assert results.equivalence(accounting.read(fake.store, "tiny")) == []


def test_equivalence_tells_bitwise_from_a_deviation_and_sizes_it(fake):
    fake.axes |= {"positional": ["learned"], "attention": ["mha"]}
    fake.seeds = (0, 1)
    study = accounting.read(fake.write().store, "tiny")
    rows = {(row.label, row.seed): row for row in results.equivalence(study)}
    assert set(rows) == {(f"learned-mha-{p}", seed) for p in ("ddp2", "fsdp2") for seed in (0, 1)}
    ddp, fsdp = rows["learned-mha-ddp2", 0], rows["learned-mha-fsdp2", 0]
    assert ddp.against == "learned-mha-single" and ddp.bitwise and ddp.initial_hash_equal
    assert (ddp.loss_first_step, ddp.loss_last_step, ddp.loss_all_steps, ddp.val_loss) == (0, 0, 0, 0)
    assert not fsdp.bitwise
    assert fsdp.loss_first_step == 0  # planted: 1e-7 per step
    assert fsdp.loss_last_step == pytest.approx(1e-7 * 11, rel=1e-6)
    assert fsdp.val_loss == pytest.approx(1e-7 * 12, rel=1e-6)


def test_equivalence_sees_one_bit_in_the_middle_of_the_curve(fake):
    fake.axes |= {"positional": ["learned"], "attention": ["mha"]}
    fake.seeds = (0,)
    fake.write()

    def nudge(line) -> None:
        if line["step"] == 5:
            line["loss"] = float(np.nextafter(line["loss"], 9))

    edit_lines(run_of(fake, "learned-mha-ddp2", 0).path / "steps.rank0.jsonl", nudge)
    row = results.equivalence(accounting.read(fake.store, "tiny"))[0]
    assert not row.bitwise and row.loss_last_step == 0 and 0 < row.loss_all_steps < 1e-14


def test_equivalence_sees_another_start(fake):
    fake.axes |= {"positional": ["learned"], "attention": ["mha"]}
    fake.seeds = (0, 1)
    fake.write()
    for seed, value in ((0, '"other"'), (1, "null")):
        path = run_of(fake, "learned-mha-ddp2", seed).path / "probes.json"
        path.write_text(path.read_text().replace(f'"learned-mha-{seed}"', value))
    rows = results.equivalence(accounting.read(fake.store, "tiny"))
    assert [row.initial_hash_equal for row in rows if row.label.endswith("ddp2")] == [False, None]


def test_equivalence_needs_both_done(fake):
    fake.axes |= {"positional": ["learned"], "attention": ["mha"]}
    fake.seeds, fake.outcome = (0, 1), {"learned-mha-single-s0": ("running", None, None)}
    rows = results.equivalence(accounting.read(fake.write().store, "tiny"))
    assert {row.seed for row in rows} == {1}
