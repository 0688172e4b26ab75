"""The report is complete, consistent with the results, and free of stale files."""

import csv
import re
import subprocess
import sys
import time

import pytest
from reported import written

from harness import report
from harness.analysis import dataset as accounting
from harness.errors import UserError
from harness.report.charts.curves import lowest_reachable_loss

FIGURES = (
    "val_loss",
    "train_loss",
    "throughput",
    "memory",
)
ENTRY_KEYS = {
    "axes",
    "entry",
    "seeds",
    "status",
    "val_loss",
    "bits_per_byte",
    "tokens_per_s",
    "step_s",
    "peak_memory_bytes",
    "parameters",
    "flops_per_token",
    "mfu",
    "decoding",
    "equivalence",
}


def rows(folder, table):
    with open(folder / "tables" / f"{table}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_whole_study(fake):
    fake.outcome = {
        "rope-gqa2-ddp2-s1": ("failed", "oom", "OutOfMemoryError: 2 GiB"),
        "rope-mha-fsdp2-s2": ("running", None, None),
        **{
            f"rope-local64-fsdp2-s{seed}": ("failed", "nan", "NotFiniteError: step 6")
            for seed in fake.seeds
        },
    }
    page, summary, folder = written(fake.write())
    assert folder.name == "tiny"
    for name in (*FIGURES, "throughput_loss"):
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (folder / "figures" / f"{name}.svg").read_bytes()
        assert f"figures/{name}.png" in page
    for image in re.findall(r"\]\((figures/[^)]+)\)", page):
        assert (folder / image).is_file()

    assert (
        summary["schema_version"] == 3
        and summary["study"] == "tiny"
        and summary["settings_hash"] == "c0ffee"
    )
    assert summary["runs"] == {"done": 49, "failed": 4, "running": 1}
    entries = {entry["entry"]: entry for entry in summary["entries"]}
    assert len(entries) == 18 and len(summary["comparisons"]) == 17
    assert all(entry.keys() >= ENTRY_KEYS for entry in entries.values())
    assert entries["learned-mha-single"]["status"] == "done"
    assert entries["rope-gqa2-ddp2"]["status"] == {"done": 2, "failed": 1}
    assert entries["rope-local64-fsdp2"]["status"] == "failed"
    assert entries["rope-local64-fsdp2"]["val_loss"] is None
    assert entries["learned-mha-single"]["val_loss"].keys() >= {"mean", "ci95"}
    assert entries["learned-mha-single"]["tokens_per_s"].keys() >= {"median", "ci95"}
    assert {row["bitwise"] for row in summary["equivalence"] if row["entry"].endswith("ddp2")} == {
        True
    }
    assert {row["bitwise"] for row in summary["equivalence"] if row["entry"].endswith("fsdp2")} == {
        False
    }

    for text in (
        "failed (oom)",
        "OutOfMemoryError: 2 GiB",
        "line 29",
        "Example CPU",
        "synthetic",
        "bitwise",
        "± ",
        "## Reproduce",
        "python -m harness run ablations.toml --set train.steps=12",
    ):
        assert text in page, text
    assert (
        "nan," not in page.lower()
        and "inf" not in page.split("## Unfinished runs")[0].lower().split()
    )

    assert len(rows(folder, "entries")) == 18 and len(rows(folder, "comparisons")) == 17
    failed = next(row for row in rows(folder, "entries") if row["entry"] == "rope-local64-fsdp2")
    assert failed["val_loss"] == failed["tokens_per_s"] == failed["peak_memory_bytes"] == ""
    curve = rows(folder, "val_curves")
    assert curve[0].keys() >= {"entry", "seed", "step", "val_loss", "bits_per_byte", "train_s"}
    assert len([row for row in curve if row["status"] == "done"]) == 49 * 4
    assert (
        len([row for row in rows(folder, "memory") if row["entry"] == "learned-mha-ddp2"]) == 6
    )  # seeds x ranks
    exact = fake.store.runs("tiny")[0].evals()[-1].val_loss
    assert str(exact) in (folder / "tables" / "val_curves.csv").read_text()  # unrounded


def test_one_entry_of_one_seed(fake):
    fake.axes = {"positional": ["learned"], "attention": ["mha"], "parallelism": ["single"]}
    fake.seeds, fake.steps = (0,), 1
    page, summary, folder = written(fake.write())
    (entry,) = summary["entries"]
    assert (
        entry["val_loss"]["ci95"] is None
        and summary["comparisons"] == []
        and summary["equivalence"] == []
    )
    assert (folder / "figures" / "val_loss.png").is_file()
    assert not (folder / "figures" / "throughput_loss.png").exists()  # one point is no trade-off
    assert "±" not in page.split("± is half")[0]


def test_one_seed_has_no_intervals(one_axis, no_figures):
    one_axis.seeds = (3,)
    page, summary, _ = written(one_axis.write())
    assert "no interval" in page
    assert "a single seed has no interval" in " ".join(page.split())
    comparison = summary["comparisons"][0]
    assert comparison["excludes_zero"] is None
    assert comparison["tokens_per_s_ratio"]["ci95"] is None
    for entry in summary["entries"]:
        assert entry["tokens_per_s"]["ci95"] is None and entry["step_s"]["ci95"] is None


@pytest.mark.parametrize("status", ["pending", "running", "failed", "interrupted"])
def test_a_study_without_results_has_a_page_and_no_numbers(one_axis, status):
    one_axis.outcome = {
        f"learned-{a}-single-s{s}": (status, None, None) for a in ("mha", "gqa2") for s in (0, 1, 2)
    }
    page, summary, folder = written(one_axis.write())
    assert f"6 {status}" in page and "No run is done yet" in page
    assert all(entry["val_loss"] is None for entry in summary["entries"])
    assert not list(folder.glob("figures/*"))


def test_a_running_study_shows_progress_and_results(one_axis, no_figures):
    one_axis.outcome = {"learned-gqa2-single-s2": ("running", None, None)}
    page, summary, _ = written(one_axis.write())
    assert "6 of 12" in page and "1 running" in page
    assert (
        summary["comparisons"][0]["seeds"] == [0, 1]
        and summary["comparisons"][0]["seeds_unpaired"] == 1
    )


def test_any_number_of_axes(fake):
    fake.axes = {
        "norm": ["layer", "rms"],
        "mlp": ["gelu", "glu"],
        "positional": ["a", "b"],
        "parallelism": ["single"],
    }
    fake.baseline, fake.seeds = {axis: labels[0] for axis, labels in fake.axes.items()}, (0, 1)
    page, summary, _ = written(fake.write())
    assert summary["entries"][0]["axes"]["norm"] == "layer"
    assert "Equivalence of parallelisms" not in page
    assert "norm, mlp, positional" in page


def test_runs_that_are_left_out_are_counted(one_axis, no_figures):
    one_axis.settings_hash = "old"
    one_axis.write()
    one_axis.settings_hash = "new"
    one_axis.write()
    damaged = next(run for run in one_axis.store.runs("tiny") if run.run_id.endswith("new"))
    (damaged.path / "spec.json").write_text("{")
    page, summary, _ = written(one_axis)
    assert "6 runs of other settings" in page and summary["left_out"]["other_settings"] == 6
    assert summary["settings_hash"] == "new"
    assert f"`{damaged.run_id}`" in page and summary["unreadable"][0]["name"] == damaged.run_id


def test_a_study_without_readable_runs_is_reported(one_axis):
    for run in one_axis.write().store.runs("tiny"):
        (run.path / "spec.json").write_text("{")
    page, summary, _ = written(one_axis)
    assert "6 folders could not be read" in page and summary["entries"] == []


def test_different_machines_and_threads_are_listed(one_axis, no_figures):
    one_axis.env = {"learned-gqa2-single": {"host": "node-2", "threads": 8}}
    page, summary, _ = written(one_axis.write())
    assert "2 machines" in page and "node-1" in page and "node-2" in page
    assert {item["env"]["host"] for item in summary["environments"]} == {"node-1", "node-2"}


def test_the_floor_is_drawn_only_if_a_token_is_a_byte(one_axis, no_figures):
    one_axis.tokenizer = "gpt2"
    page, _, _ = written(one_axis.write())
    assert "1.3100 nats per byte" in page
    assert lowest_reachable_loss(accounting.read(one_axis.store, "tiny")) is None
    one_axis.tokenizer, one_axis.settings_hash = "bytes", "other"
    assert (
        lowest_reachable_loss(accounting.read(one_axis.write().store, "tiny")) == one_axis.entropy
    )


def test_a_log_with_fences_and_colours_stays_in_its_block(one_axis, no_figures):
    one_axis.outcome = {
        "learned-gqa2-single-s0": ("failed", "error", "bad | ```` \x1b[31mred\x1b[0m")
    }
    page, _, _ = written(one_axis.write())
    assert (
        "`````text" in page
        and "\x1b" not in page.split("## Unfinished runs")[1].split("`````text")[1]
    )
    assert "bad \\| " in page


def test_a_second_report_is_identical_and_removes_old_files(one_axis):
    one_axis.seeds = (0,)
    _, _, folder = written(one_axis.write())
    before = {path: path.read_bytes() for path in folder.glob("*/*")}
    old = folder / "figures" / "old.png"
    old.write_bytes(b"")
    written(one_axis)
    assert {path: path.read_bytes() for path in folder.glob("*/*")} == before


def test_a_study_without_runs_is_a_user_error(fake):
    with pytest.raises(UserError, match="harness run"):
        report.write(fake.store, "tiny", fake.root)


def test_a_report_never_imports_torch(one_axis, tmp_path):
    one_axis.seeds = (0, 1)
    one_axis.write()
    code = (
        "import sys, pathlib; from harness import report; from harness.results.store import Store;"
        "slow = {'torch', 'matplotlib', 'scipy', 'pandas'} & set(sys.modules);"
        "assert not slow, slow;"
        f"store = Store(pathlib.Path({str(one_axis.root)!r}));"
        f"report.write(store, 'tiny', pathlib.Path({str(tmp_path / 'out')!r}));"
        "used = {'torch', 'matplotlib.pyplot'} & set(sys.modules); assert not used, used"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_54_runs_of_300_steps_take_seconds(fake):
    fake.steps, fake.eval_every = 300, 25
    fake.write()
    start = time.process_time()
    report.write(fake.store, "tiny", fake.root.parent / "reports")
    assert (
        time.process_time() - start < 15
    )  # some 3 s; the processor's time, so that what else runs does not count
