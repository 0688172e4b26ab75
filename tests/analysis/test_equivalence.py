"""If these failed, the report would show the speed of a faulty parallelism, or omit a valid one."""

import csv
import itertools
import json

import numpy as np
import pytest

from harness import report
from harness.analysis import dataset, equivalence, summary
from harness.analysis.equivalence import N_FIRST, TOLERANCES
from harness.report import charts

SINGLE, DDP, FSDP = (f"learned-mha-{name}" for name in ("single", "ddp2", "fsdp2"))


@pytest.fixture
def three(fake):
    """One architecture under three parallelisms."""
    fake.axes |= {"positional": ["learned"], "attention": ["mha"]}
    fake.seeds = (0, 1)
    return fake


def run_of(fake, entry, seed):
    return next(
        run for run in fake.store.runs("tiny") if run.run_id.startswith(f"{entry}-s{seed}-")
    )


def edit_steps(fake, entry, seed, change) -> None:
    for path in run_of(fake, entry, seed).path.glob("steps.rank*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            change(line)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def edit_json(fake, entry, seed, name, **fields) -> None:
    path = run_of(fake, entry, seed).path / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def checked(fake):
    rows = equivalence.check(dataset.read(fake.store, "tiny"))
    return {(row.entry, row.seed): row for row in rows}


def factor(key, by, steps=(0,)):
    return lambda line: line.update({key: line[key] * by}) if line["step"] in steps else None


def test_bitwise_and_deviating_runs_are_distinguished(three):
    rows = checked(three.write())
    assert set(rows) == {(label, seed) for label in (DDP, FSDP) for seed in (0, 1)}
    ddp, fsdp = rows[DDP, 0], rows[FSDP, 0]
    assert (
        ddp.against == SINGLE
        and ddp.verdict == "bitwise"
        and ddp.initial_hash_equal
        and ddp.ranks_agree
    )
    assert (
        ddp.abs_loss_dev_first,
        ddp.abs_loss_dev_last,
        ddp.max_abs_loss_dev,
        ddp.abs_val_loss_dev,
    ) == (
        0,
        0,
        0,
        0,
    )
    assert (ddp.max_rel_loss_dev_first5, ddp.max_rel_grad_norm_dev_first5, ddp.reason) == (
        0,
        0,
        None,
    )
    assert not fsdp.bitwise and fsdp.verdict == "within tolerance"
    assert fsdp.abs_loss_dev_first == 0  # planted: 1e-7 per step
    assert fsdp.abs_loss_dev_last == fsdp.max_abs_loss_dev == pytest.approx(1e-7 * 11, rel=1e-6)
    assert fsdp.abs_val_loss_dev == pytest.approx(1e-7 * 12, rel=1e-6)
    losses = run_of(three, SINGLE, 0).steps().loss[:N_FIRST]
    assert fsdp.max_rel_loss_dev_first5 == pytest.approx(
        max(1e-7 * np.arange(N_FIRST) / losses), rel=1e-6
    )


def test_one_different_bit_is_not_bitwise(three):
    three.write()
    edit_steps(three, DDP, 0, lambda line: line.update(loss=float(np.nextafter(line["loss"], 9))))
    row = checked(three)[DDP, 0]
    assert row.verdict == "within tolerance" and 0 < row.max_abs_loss_dev < 1e-14


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("key", "name"), [("loss", "loss"), ("grad_norm", "gradient norm")])
def test_deviation_beyond_the_tolerance_diverges(three, precision, key, name):
    three.write()
    most = getattr(TOLERANCES[precision], key)
    for entry, seed in itertools.product((SINGLE, DDP, FSDP), three.seeds):
        train = run_of(three, entry, seed).spec.train.model_dump()
        edit_json(three, entry, seed, "spec.json", train=train | {"precision": precision})
    edit_steps(three, DDP, 0, factor(key, 1 + 1.1 * most, steps=(N_FIRST - 1,)))
    edit_steps(three, FSDP, 0, factor(key, 1 + 0.9 * most, steps=(N_FIRST - 1,)))
    rows = checked(three)
    assert rows[DDP, 0].verdict == "DIVERGES" and rows[DDP, 0].reason.startswith(
        f"{name} of the first 5 steps"
    )
    assert rows[FSDP, 0].verdict == "within tolerance" and rows[FSDP, 0].reason is None


def test_bf16_communication_has_the_bf16_tolerance(three):
    """Compressed gradients deviate from those of one process, which is not a fault."""
    three.write()
    by = 1 + 0.5 * TOLERANCES["bf16"].grad_norm
    edit_json(three, DDP, 0, "probes.json", communication_dtype="bf16")
    for entry in (DDP, FSDP):
        edit_steps(three, entry, 0, factor("grad_norm", by))
    rows = checked(three)
    assert rows[DDP, 0].verdict != "DIVERGES" and rows[FSDP, 0].verdict == "DIVERGES"
    assert rows[DDP, 0].rel_grad_norm_tolerance == TOLERANCES["bf16"].grad_norm


def test_later_deviations_are_reported_and_do_not_diverge(three):
    three.write()
    edit_steps(three, DDP, 0, factor("loss", 1.01, steps=(N_FIRST,)))
    row = checked(three)[DDP, 0]
    assert row.verdict == "within tolerance" and row.max_abs_loss_dev > 0.01


def test_nan_gradient_norm_diverges(three):
    three.write()
    edit_steps(three, DDP, 0, lambda line: line.update(grad_norm=None))
    assert checked(three)[DDP, 0].verdict == "DIVERGES"


def test_other_initial_hash_diverges_missing_hash_does_not(three):
    three.write()
    edit_json(three, DDP, 0, "probes.json", initial_hash="other")
    edit_json(three, DDP, 1, "probes.json", initial_hash=None)
    rows = checked(three)
    assert (
        rows[DDP, 0].verdict == "DIVERGES"
        and rows[DDP, 0].reason == "its initial parameters differ"
    )
    assert rows[DDP, 1].verdict == "bitwise" and rows[DDP, 1].initial_hash_equal is None


def test_ranks_with_different_final_parameters_diverge(
    three,
):
    three.outcome = {f"{SINGLE}-s1": ("failed", "oom", "no memory")}
    three.write()
    for seed in (0, 1):
        edit_json(three, DDP, seed, "probes.json", final_hashes=["a", "b"])
    rows = checked(three)
    for seed in (0, 1):
        assert rows[DDP, seed].verdict == "DIVERGES" and not rows[DDP, seed].ranks_agree
        assert rows[DDP, seed].reason == "its ranks ended with different parameters"


def test_run_without_reference_run_is_not_checked(three):
    three.outcome = {f"{SINGLE}-s0": ("running", None, None)}
    rows = checked(three.write())
    assert {rows[label, 0].verdict for label in (DDP, FSDP)} == {"not checked"}
    assert (
        rows[DDP, 0].reason == f"{SINGLE} of seed 0 is not done"
        and rows[DDP, 0].max_abs_loss_dev is None
    )
    assert rows[DDP, 1].verdict == "bitwise"


def test_a_study_without_an_entry_on_one_process_says_so(three):
    three.axes["parallelism"], three.baseline = ["ddp2"], {}
    three.write()
    folder = report.write(three.store, "tiny", three.root.parent / "reports")
    row = checked(three)[DDP, 0]
    assert (row.verdict, row.reason, row.against) == (
        "not checked",
        "no single-process entry in the study",
        None,
    )
    page = (folder / "report.md").read_text()
    assert (
        "## Equivalence of parallelisms" in page
        and "not checked: no single-process entry in the study" in page
    )
    entry = json.loads((folder / "summary.json").read_text())["entries"][0]
    assert entry["equivalence"] == "not checked" and entry["tokens_per_s"], (
        "not wrong, only not proven"
    )


def test_reference_is_the_single_process_entry(three):
    three.baseline = three.baseline | {"parallelism": "ddp2"}
    rows = checked(three.write())
    assert {row.against for row in rows.values()} == {SINGLE} and {label for label, _ in rows} == {
        DDP,
        FSDP,
    }


def test_dropout_compares_initial_parameters_only(three):
    three.write()
    for entry, seed in itertools.product((SINGLE, DDP, FSDP), three.seeds):
        model = run_of(three, entry, seed).spec.model.model_dump()
        edit_json(three, entry, seed, "spec.json", model=model | {"dropout": 0.1})
    edit_steps(three, DDP, 0, factor("loss", 1.02, steps=range(12)))
    edit_json(three, FSDP, 0, "probes.json", initial_hash="other")
    rows = checked(three)
    assert rows[DDP, 0].verdict == "not checked" and "dropout" in rows[DDP, 0].reason
    assert rows[FSDP, 0].verdict == "DIVERGES"


def test_the_worst_seed_is_the_entrys_verdict(three):
    three.write()
    edit_steps(three, DDP, 1, factor("grad_norm", 2.0))
    verdicts = equivalence.by_entry(checked(three).values())
    assert verdicts == {DDP: "DIVERGES", FSDP: "within tolerance"}


def test_diverging_entry_keeps_its_row_without_speed(three):
    """The fastest parallelism is the one that forgets to communicate."""
    three.write()
    edit_steps(three, DDP, 0, factor("grad_norm", 1.3))
    work = summary.summarize(dataset.read(three.store, "tiny"), "")
    result = work.results[DDP]
    assert result.val_loss and result.peak_memory_bytes and result.equivalence == "DIVERGES"
    assert result.tokens_per_s is None and result.step_s is None and result.mfu is None
    assert work.results[FSDP].tokens_per_s
    ratios = {c.entry: c for c in work.comparisons}
    assert ratios[DDP].tokens_per_s_ratio is None and ratios[DDP].speed_diverges
    assert ratios[FSDP].tokens_per_s_ratio and not ratios[FSDP].speed_diverges

    folder = report.write(three.store, "tiny", three.root.parent / "reports")
    page = (folder / "report.md").read_text()
    (row,) = (
        line
        for line in page.split("## Loss curves")[0].splitlines()
        if line.startswith("| ddp2 ") and " of 2 done" in line
    )
    assert row.count("diverges") == 4 and "2 of 2 done" in row
    loss, costs = (
        line
        for line in page.split("## Comparison")[1].split("\n## ")[0].splitlines()
        if line.startswith("| ddp2 ")
    )
    assert (
        loss.count("diverges") == 1 and costs.count("diverges") == 3
    )  # no verdict on a diverging entry
    assert "> ddp2 does not reproduce the single-process run" in page
    reason = "gradient norm of the first 5 steps deviates by 3.0e-01, more than 1e-04"
    assert f"- DIVERGES: {reason}: `{DDP}-s0`." in page
    plots = {spec.name: repr(spec.plot) for spec in charts.build(work)}
    assert FSDP in plots["throughput_loss"] and DDP not in plots["throughput_loss"]
    assert "note='diverges'" in plots["throughput"]
    with open(folder / "tables" / "equivalence.csv", newline="") as file:
        table = {(row["entry"], row["seed"]): row for row in csv.DictReader(file)}
    assert table[DDP, "0"]["verdict"] == "DIVERGES" and table[DDP, "1"]["verdict"] == "bitwise"
    entries = {
        entry["entry"]: entry
        for entry in json.loads((folder / "summary.json").read_text())["entries"]
    }
    assert entries[DDP]["equivalence"] == "DIVERGES" and entries[DDP]["tokens_per_s"] is None


def test_a_ratio_over_a_baseline_that_diverges_is_none(three):
    three.baseline = three.baseline | {"parallelism": "ddp2"}
    three.write()
    edit_steps(three, DDP, 0, factor("grad_norm", 1.3))
    work = summary.summarize(dataset.read(three.store, "tiny"), "")
    assert {c.entry: c.speed_diverges for c in work.comparisons} == {SINGLE: True, FSDP: True}
    assert not any(c.tokens_per_s_ratio for c in work.comparisons)
