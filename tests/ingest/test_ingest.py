"""If these failed, results of another trainer could not be read, or would say more than they do."""

import contextlib
import dataclasses
import json
import math
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from command_line import Harness
from hypothesis import given, settings
from hypothesis import strategies as st
from imported_results import (
    EFFECTS,
    STEPS,
    TOKENS_PER_STEP,
    evaluation_rows,
    final_rows,
    wide_rows,
    write_csv,
    write_json_lines,
)

import harness
from harness.analysis import dataset
from harness.analysis.summary import summarize
from harness.errors import UserError
from harness.ingest import IngestRequest, ingest
from harness.report import charts
from harness.report import write as write_report
from harness.report.compare import Source
from harness.report.compare.comparison import compare
from harness.results.records import now
from harness.results.store import Store


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.setattr("os.fsync", lambda fd: None)
    return Store(tmp_path / "results")


@pytest.fixture
def folder(tmp_path):
    """Return a folder for tables."""
    path = tmp_path / "tables"
    path.mkdir()
    return path


@pytest.fixture
def command(tmp_path, monkeypatch) -> Harness:
    monkeypatch.setattr("os.fsync", lambda fd: None)
    return Harness(tmp_path)


def add(store, table, study="mine", baseline=("adamw",), **options):
    return ingest(IngestRequest(table, study, baseline, **options), store)


def read(store, study="mine"):
    return dataset.read(store, study)


def run_ids(store, study):
    return {run.run_id for run in store.runs(study)}


def changed(rows, index, **values):
    """Return the rows with other values in one of them."""
    return [row | values if i == index else row for i, row in enumerate(rows)]


# -- one study from every form of a table ------------------------------------------------------


def in_folder(folder, rows):
    """Write a table for each run, whose name states entry and seed."""
    (folder / "runs").mkdir()
    by_run = {}
    for row in rows:
        by_run.setdefault(f"{row['entry']}-seed{row['seed']}.csv", []).append(row)
    for name, of_run in by_run.items():
        without = [{k: v for k, v in row.items() if k not in ("entry", "seed")} for row in of_run]
        write_csv(folder / "runs" / name, without)
    return folder / "runs"


def in_parquet(folder, rows):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.DataFrame(rows).to_parquet(folder / "runs.parquet")
    return folder / "runs.parquet"


FORMS = {
    "tsv": lambda folder, rows: write_csv(folder / "runs.tsv", rows, "\t"),
    "jsonl": lambda folder, rows: write_json_lines(folder / "runs.jsonl", rows),
    "parquet": in_parquet,
    "folder": in_folder,
    "shuffled": lambda folder, rows: write_csv(folder / "reversed.csv", rows[::-1]),
}


@pytest.mark.parametrize("rows", [final_rows, evaluation_rows], ids=["final", "evaluations"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_runs(store, folder, form, rows):
    add(store, write_csv(folder / "runs.csv", list(rows())), "csv")
    add(store, FORMS[form](folder, list(rows())), "other")
    assert run_ids(store, "other") == run_ids(store, "csv")
    assert len(run_ids(store, "csv")) == 27


def test_a_column_per_seed_gives_the_same_runs(store, folder):
    add(store, write_csv(folder / "long.csv", final_rows()), "long")
    add(store, write_csv(folder / "wide.csv", wide_rows()), "wide")
    assert run_ids(store, "wide") == run_ids(store, "long")


def test_columns_of_labels_become_axes(store, folder):
    rows = [
        {"lr": lr, "attention": attention, "seed": seed, "val_loss": 3 + lr}
        for lr in (0.001, 0.0003)
        for attention in ("mha", "gqa 2")
        for seed in range(2)
    ]
    table = write_csv(folder / "axes.csv", rows)
    add(store, table, baseline=("lr=0.001", "attention=mha"), compare=["attention"])
    study = read(store)
    assert study.levels == {"lr": ("0.001", "0.0003"), "attention": ("mha", "gqa 2")}
    assert (study.asked, study.contexts) == (["attention"], ["lr"])
    base = study.baseline_of(study.find({"lr": "0.0003", "attention": "gqa 2"}))
    assert base.axes == {"lr": "0.0003", "attention": "mha"}


# -- what is known and what is not -------------------------------------------------------------


def test_stated_values_are_kept(store, folder):
    add(store, write_csv(folder / "runs.csv", list(evaluation_rows())))
    study = read(store)
    run = study.find({"configuration": "gqa"}).runs[0]
    row = next(row for row in final_rows() if row["entry"] == "gqa")
    assert run.final_loss == row["val_loss"]
    assert run.evals.step.tolist() == list(STEPS)
    assert run.n_tokens == STEPS[-1] * TOKENS_PER_STEP
    assert run.tokens_per_step == TOKENS_PER_STEP
    assert run.tokens_at_evals.tolist() == [step * TOKENS_PER_STEP for step in STEPS]
    assert run.peak_memory_bytes == 3_500_000_000
    assert len(run.timed_step_s) == len(STEPS)


UNKNOWN = ("parameters", "flops_per_token", "flops_source", "peak_flops", "mfu", "bits_per_byte")


@pytest.mark.parametrize("rows", [final_rows, evaluation_rows], ids=["final", "evaluations"])
def test_nothing_is_invented(store, folder, rows):
    add(store, write_csv(folder / "runs.csv", list(rows())))
    summary = summarize(read(store), now())
    assert summary.study.imported
    assert not summary.equivalence and not summary.scaling and summary.ladder is None
    assert not summary.varied and summary.study.spec is None
    for result in summary.results.values():
        assert [getattr(result, name) for name in UNKNOWN] == [None] * len(UNKNOWN)
        assert result.memory is None and result.equivalence is None
    budgets = {ranking.budget_kind for ranking in summary.rankings}
    assert budgets == (set() if rows is final_rows else {"tokens", "train_s"})
    for name in ("memory", "phases", "traffic"):
        assert name not in summary.tables or summary.tables[name].empty


def test_unknown_quantities_have_no_verdict(store, folder):
    add(store, write_csv(folder / "runs.csv", final_rows()), margins=["val_loss=0.005"])
    summary = summarize(read(store), now())
    tests = summary.metric_tests
    assert len(tests["val_loss"].entries) == len(EFFECTS) - 1
    assert not tests["tokens_per_s"].entries and not tests["peak_memory"].entries
    words = {label: test.verdict for label, test in tests["val_loss"].entries.items()}
    assert (words["muon"], words["sgd"]) == ("better", "worse")


def test_a_row_without_a_loss_adds_its_step_time(store, folder):
    rows = [
        row if row["step"] in (0, 3000) else row | {"val_loss": ""} for row in evaluation_rows()
    ]
    add(store, write_csv(folder / "runs.csv", rows))
    run = read(store).runs[0]
    assert run.evals.step.tolist() == [0, 3000]
    assert len(run.timed_step_s) == len(STEPS)


def test_seeds_with_other_steps_have_no_mean_curve(store, folder, no_figures):
    """The mean over seeds would mix losses of different steps."""
    rows = [
        row
        for row in evaluation_rows()
        if (row["entry"], row["seed"], row["step"]) != ("muon", 1, 1000)
    ]
    add(store, write_csv(folder / "runs.csv", rows))
    summary = summarize(read(store), now())
    lines = {
        chart.name: [[line.entry for line in panel.lines] for panel in chart.plot.panels]
        for chart in charts.build(summary)
        if chart.name.startswith("val_loss")
    }
    assert set(lines) == {"val_loss"}
    losses, differences = lines["val_loss"]
    assert len(losses) == 8 and "muon" not in losses + differences


def test_step_times_without_tokens_give_no_throughput(store, folder):
    rows = [{k: v for k, v in row.items() if k != "tokens"} for row in evaluation_rows()]
    add(store, write_csv(folder / "runs.csv", rows))
    summary = summarize(read(store), now())
    assert all(result.step_s for result in summary.results.values())
    assert not any(result.tokens_per_s for result in summary.results.values())
    assert not summary.metric_tests["tokens_per_s"].entries


@pytest.mark.parametrize("loss", ["nan", "NaN", "inf"])
def test_a_loss_that_is_not_finite_is_a_failed_run(store, folder, loss):
    table = write_csv(folder / "runs.csv", changed(final_rows(), 4, val_loss=loss))
    assert add(store, table).n_failed == 1
    study = read(store)
    (failed,) = [run for run in study.runs if run.status == "failed"]
    assert (failed.spec.entry, failed.seed, failed.reason) == ("muon", 1, "nan")
    assert math.isfinite(summarize(study, now()).results["muon"].val_loss.mean)


def test_a_diverged_run_may_end_early(store, folder):
    rows = [row for row in evaluation_rows() if (row["entry"], row["seed"]) != ("muon", 1)]
    lost = {"entry": "muon", "seed": 1, "step": 0, "val_loss": "nan"}
    rows.append(dict.fromkeys(rows[0], "") | lost)
    assert add(store, write_csv(folder / "runs.csv", rows)).n_failed == 1


# -- bad tables: all problems at once, with their lines, and nothing written -------------------

ROWS = final_rows()
BAD = {
    "repeated": ([*ROWS, ROWS[0]], "line 29", "repeats adamw, seed 0"),
    "missing seed": (ROWS[1:], "adamw has no seed 0", "--allow-missing-seeds"),
    "text": (changed(ROWS, 0, val_loss="3.1x"), "line 2: val_loss", "'3.1x' is not a number"),
    "empty loss": (changed(ROWS, 0, val_loss=""), "line 2: val_loss", "write nan"),
    "negative": (changed(ROWS, 0, val_loss=-3.1), "line 2: val_loss", "nats per token"),
    "seed": (changed(ROWS, 0, seed="first"), "line 2: seed", "'first' is not a number"),
    "fraction": (changed(ROWS, 0, seed=0.5), "line 2: seed", "whole number"),
    "no label": (changed(ROWS, 0, entry=""), "line 2: entry", "is empty"),
    "long label": (changed(ROWS, 0, entry="x" * 61), "line 2: entry", "at most 60 characters"),
    "cells": (changed(ROWS, 0, val_loss="3,1"), "line 2", "4 values for 3 columns"),
    "unknown column": ([row | {"val_los": 1} for row in ROWS], "'val_los'", "'val_loss'"),
    "memory in MiB": ([row | {"peak_memory": 4000} for row in ROWS], "line 2", "bytes"),
    "no steps": ([row | {"step_s": 0} for row in ROWS], "line 2: step_s", "above 0"),
    "mixed units": (
        changed([row | {"step_s": 0.15} for row in ROWS], 0, step_s=150),
        "150 in adamw, seed 0 and 0.15",
        "seconds",
    ),
    "ends early": (
        changed([row | {"step": 100} for row in ROWS], 0, step=90),
        "adamw, seed 0 ends at step 90",
        "100",
    ),
    "same step": ([row | {"step": 1} for row in (*ROWS, ROWS[0])], "line 29", "step 1"),
    "tokens fall": (
        [*(row | {"step": 2, "tokens": 9} for row in ROWS), ROWS[0] | {"step": 3, "tokens": 8}],
        "line 29: tokens",
        "8 is less than 9",
    ),
    "no run": ([{"entry": "entry", "seed": "seed", "val_loss": "val_loss"}], "is not a number"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_table_is_refused(store, folder, case):
    rows, *expected = BAD[case]
    with pytest.raises(UserError) as error:
        add(store, write_csv(folder / "runs.csv", rows))
    assert all(text in str(error.value) for text in expected), str(error.value)
    assert not store.root.exists()


FILES = {
    "empty": ("runs.csv", "", "is empty"),
    "header only": ("runs.csv", "entry,seed,val_loss\n", "has no rows"),
    "semicolons": ("runs.csv", "entry;seed;val_loss\na;0;3\n", "separate them by commas"),
    "index": ("runs.csv", ",entry,seed,val_loss\n0,a,0,3\n", "index=False"),
    "twice": ("runs.csv", "entry,seed,seed,val_loss\na,0,0,3\n", "2 columns are named 'seed'"),
    "columns": ("runs.csv", "entry,sed,val_loss\na,0,3\n", "did you mean 'seed'"),
    "no entry": ("runs.csv", "lr,seed,val_loss\n1,0,3\n", "--baseline COLUMN=LABEL"),
    "not text": ("runs.csv", "entry,seed,val_loss\na,0,\xff\n".encode("latin-1"), "not UTF-8"),
    "JSON": ("runs.jsonl", '{"entry": "a"\n', "line 1: is not JSON"),
    "array": ("runs.jsonl", "[1]\n", "line 1: is not an object"),
    "nested": ("runs.jsonl", '{"entry":"a","seed":0,"val_loss":[3]}\n', "is not a number"),
    "Parquet": ("runs.parquet", "no", "not a Parquet table"),
    "suffix": ("runs.xlsx", "no", ".csv, .tsv, .jsonl, .parquet"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_bad_file_is_refused(store, folder, case):
    name, content, expected = FILES[case]
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        add(store, folder / name, baseline=("a",))
    assert expected in str(error.value)
    assert not store.root.exists()


def test_all_problems_are_reported_at_once(store, folder):
    rows = [*changed(changed(ROWS, 0, val_loss="x"), 3, seed=-1), ROWS[5]]
    with pytest.raises(UserError) as error:
        add(store, write_csv(folder / "runs.csv", rows), margins=["loss=1"])
    found = str(error.value)
    for place in ("--margin loss=1", "line 2: val_loss", "line 5: seed", "line 29"):
        assert place in found
    assert len(error.value.problems) == 4


def test_an_unknown_column_hides_no_other_problem(store, folder):
    """One that may be an axis: its runs are not taken for repeated ones."""
    rows = [row | {"lr": lr} for row in changed(ROWS, 0, val_loss="x") for lr in (1, 3)]
    with pytest.raises(UserError) as error:
        add(store, write_csv(folder / "runs.csv", rows))
    found = [str(problem) for problem in error.value.problems]
    assert len(found) == 3 and "unknown column 'lr'" in found[0]
    assert all("val_loss: 'x'" in problem for problem in found[1:])


@pytest.mark.parametrize("baseline", [(), ("adam",)], ids=["missing", "unknown"])
def test_without_a_baseline_the_entries_are_listed(store, folder, baseline):
    with pytest.raises(UserError, match="entries: adamw, muon, lion"):
        add(store, write_csv(folder / "runs.csv", ROWS), baseline=baseline)
    assert not store.root.exists()


@pytest.mark.parametrize("axis", ["parallelism", "status", "tuning", "parameters"])
def test_an_axis_with_another_meaning_is_refused(store, folder, axis):
    rows = [{axis: label, "seed": 0, "val_loss": 3} for label in ("a", "b")]
    with pytest.raises(UserError, match="rename it"):
        add(store, write_csv(folder / "runs.csv", rows), baseline=(f"{axis}=a",))


def test_entries_of_one_name_are_refused(store, folder):
    rows = [{"p": a, "q": b, "seed": 0, "val_loss": 3} for a, b in (("x-y", "z"), ("x", "y-z"))]
    with pytest.raises(UserError, match="two entries have the name x-y-z"):
        add(store, write_csv(folder / "runs.csv", rows), baseline=("p=x", "q=y-z"))


CELLS = st.sampled_from(
    ["", "a", "0", "1", "-1", "0.5", "nan", "1e999", "1e-400", "é", '"', "\x00"]
)
HEADERS = st.lists(st.sampled_from(["entry", "seed", "val_loss", "step", "step_s", "seed0", "x"]))


@given(
    HEADERS, st.lists(st.lists(CELLS, max_size=5), max_size=5), st.sampled_from(["csv", "jsonl"])
)
@settings(max_examples=150)
def test_no_table_ends_in_an_exception(header, rows, suffix):
    """Any content is imported, or refused with a message."""
    lines = [",".join(cells) for cells in [header, *rows]]
    if suffix == "jsonl":
        lines = [json.dumps(dict(zip(header, cells, strict=False))) for cells in rows]
    with tempfile.TemporaryDirectory() as name, mock.patch("os.fsync"):
        path = Path(name, f"runs.{suffix}")
        path.write_text("\n".join(lines))
        with contextlib.suppress(UserError):
            add(Store(Path(name, "results")), path, baseline=("a",))
            assert read(Store(Path(name, "results"))).runs


LABELS = ("base", "../x", "<b>x</b>", "`x`", "a|b", "lr = 1e-3", "é")


def test_any_label_that_can_be_printed_is_accepted(store, folder, no_figures):
    rows = [
        {"entry": label, "seed": seed, "val_loss": 3 + 0.01 * seed}
        for label in LABELS
        for seed in range(2)
    ]
    add(store, write_json_lines(folder / "runs.jsonl", rows), baseline=("base",))
    assert {entry.label for entry in read(store).entries} == set(LABELS)
    page = (write_report(store, "mine", folder) / "index.html").read_text()
    assert "<b>x</b>" not in page
    assert {run.path.parent for run in store.runs("mine")} == {store.root / "mine"}


# -- a second import ---------------------------------------------------------------------------


def content(store):
    files = (path for path in store.root.rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_the_same_table_changes_nothing(store, folder):
    table = write_csv(folder / "runs.csv", ROWS)
    assert add(store, table).is_changed
    before = content(store)
    assert not add(store, table).is_changed
    assert content(store) == before


def test_a_changed_table_replaces_the_study(store, folder):
    table = folder / "runs.csv"
    add(store, write_csv(table, ROWS), margins=["val_loss=0.5"])
    outcome = add(store, write_csv(table, changed(ROWS, 0, val_loss=3.0)))
    assert "26 runs are the same, 1 are new or changed, 1 are gone or changed" in outcome.notes[0]
    study = read(store)
    assert len(study.runs) == 27 and not study.superseded and not study.left_out
    assert study.find({"configuration": "adamw"}).runs[0].final_loss == 3.0
    assert study.margins == {}, "the margin of the earlier import applies"
    assert "replaces" in study.launches[-1].note


def test_seeds_that_are_added_later_are_an_unplanned_look(store, folder):
    """Stopping when the verdict is right would find effects where there are none."""
    table = folder / "runs.csv"
    rows = [row | {"seed": seed} for row in ROWS[::3] for seed in range(5)]
    rows = [row | {"val_loss": 3 + 0.01 * i} for i, row in enumerate(rows)]
    add(store, write_csv(table, [row for row in rows if row["seed"] < 3]))
    assert [look.level for look in read(store).looks.looks] == [0.05]
    add(store, write_csv(table, rows))
    looks = read(store).looks
    assert not looks.planned
    assert [look.seeds for look in looks.looks] == [[0, 1, 2], [0, 1, 2, 3, 4]]
    assert [look.level for look in looks.looks] == pytest.approx([0.025, 0.05 / 6])


def test_the_source_is_recorded(store, folder):
    table = write_csv(folder / "runs.csv", ROWS)
    add(store, table)
    source = read(store).source
    assert (source.path, source.rows) == (str(table), 27)
    assert len(source.sha256) == 64 and source.files[0].sha256 == source.sha256


def test_own_results_are_not_replaced(fake, folder):
    fake.write()
    before = content(fake.store)
    with pytest.raises(UserError, match="choose another name"):
        add(fake.store, write_csv(folder / "runs.csv", ROWS), fake.name)
    assert content(fake.store) == before


# -- the commands ------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [final_rows, evaluation_rows], ids=["final", "evaluations"])
def test_commands_accept_an_imported_study(command, rows):
    write_csv(command.folder / "runs.csv", list(rows()))
    options = ("--study", "mine", "--baseline", "adamw", "--margin", "val_loss=0.005")
    path = command("ingest", "runs.csv", *options, "--report").stdout.strip()
    report = (command.folder / path).read_text()
    assert "Imported from `runs.csv`" in report
    better = report.partition("**Better**")[2].partition("**")[0]
    assert "muon" in better and "swiglu" in better and "sgd" not in better
    for absent in (
        "diverges",
        "quivalence of parallelisms\n",
        "Environment",
        "shuffled",
        "differ only in the parallelism",
        "slowest rank",
    ):
        assert absent not in report
    page = (command.folder / path).with_name("index.html").read_text()
    assert "muon" in page
    summary = json.loads((command.folder / path).with_name("summary.json").read_text())
    assert summary["imported"] and summary["entries"][0]["parameters"] is None
    planned = command("plan", "mine", "--effect-size", "0.01").stdout
    assert "detect 0.01 nats" in planned
    cost = "unknown" if rows is final_rows else "1 h 10 min for each seed"  # 3000 steps of each
    assert f"cost: {cost}" in planned
    assert "mine (imported): 27 runs: 27 done" in command("status").stdout
    assert "9 entries, 27 runs" in command("list", "mine").stdout
    assert "--seeds: only for a study file" in command("list", "mine", "--seeds=0", code=2).stderr
    for tool in ("csv", "latex"):
        assert (command.folder / command("export", "mine", "--to", tool).stdout.split()[0]).is_dir()
    study = harness.load(command.folder / "results", study="mine")
    assert len(study.runs) == 27 and study.runs["val_loss"].notna().all()
    assert study.settings == {} and study.steps.empty
    assert len(study.evals) == (0 if rows is final_rows else 108)
    assert study.entries["parameters"].isna().all()


def test_what_needs_a_trained_run_is_refused(command):
    write_csv(command.folder / "runs.csv", ROWS)
    command("ingest", "runs.csv", "--study", "s", "--baseline", "adamw")
    run = Store(command.folder / "results").runs("s")[0].path
    refused = {
        ("run", command.study('["learned"]'), "--dry-run"): "choose another study.name",
        ("reproduce", "results/s", "again"): "imported from another trainer",
        ("sample", run / "checkpoint" / "best", "--prompt", "a"): "has no checkpoint",
        ("checkpoint", "show", run): "has no checkpoint",
        ("checkpoint", "export", run, "hf"): "has no checkpoint",
    }
    for arguments, message in refused.items():
        assert message in command(*arguments, code=2).stderr


def test_an_own_study_compares_with_an_imported_one(fake, folder, no_figures, monkeypatch):
    from command_line import call

    fake.axes = {"optimizer": ["adamw", "muon"]}
    fake.baseline = {"optimizer": "adamw"}
    fake.write()
    rows = [row for row in ROWS if row["entry"] in ("adamw", "muon")]
    rows = [row | {"optimizer": row["entry"]} for row in rows]
    table = write_csv(folder / "runs.csv", rows)
    add(fake.store, table, baseline=("optimizer=adamw",), ignore=["entry"])
    monkeypatch.chdir(folder)
    path = call("compare", "mine", fake.name, "--results", fake.store.root).strip()
    report = (folder / path).read_text()
    assert "Imported from results of another trainer: `mine`" in report
    assert "| adamw " in report and "| muon " in report
    assert "bitwise identical" not in report
    summary = json.loads((folder / path).with_name("summary.json").read_text())
    pair = summary["pairs"][0]
    assert pair["parameters"][0] is None and pair["flops_per_token"][0] is None


def test_unmatched_seeds_are_compared_as_two_samples(fake, folder):
    fake.axes = {"optimizer": ["adamw", "muon"]}
    fake.baseline = {"optimizer": "adamw"}
    fake.seeds = (10, 11, 12)
    fake.write()
    add(fake.store, write_csv(folder / "runs.csv", ROWS[:3]))
    sides = [
        Source(name, read(fake.store, name), fake.store.archive(name))
        for name in ("mine", fake.name)
    ]
    (pair,) = compare(*sides, now())[0].pairs
    assert (pair.seeds, pair.val_loss.method) == ([], "Welch")
    assert pair.val_loss.verdict == "better"


def test_two_imports_are_not_called_bitwise_identical(store, folder):
    """Equal rounded losses do not show that the training was the same."""
    table = write_csv(folder / "runs.csv", ROWS)
    add(store, table, "a", margins=["val_loss=0.1"])
    add(store, table, "b", margins=["val_loss=0.1"])
    sides = [Source(name, read(store, name), store.archive(name)) for name in ("a", "b")]
    pairs = compare(*sides, now())[0].pairs
    assert len(pairs) == 9
    assert not any(pair.bitwise for pair in pairs)
    assert all(pair.val_loss.verdict == "equivalent" for pair in pairs)


def test_a_damaged_run_is_named(store, folder):
    add(store, write_csv(folder / "runs.csv", ROWS))
    run = store.runs("mine")[0]
    (run.path / "imported.json").write_text("{")
    study = read(store)
    assert [item.name for item in study.unreadable] == [run.run_id]
    assert len(study.runs) == 26


def test_a_request_has_only_options_of_the_command():
    import inspect

    from harness.cli.ingest import ingest as ingest_command

    options = set(inspect.signature(ingest_command).parameters) - {"report", "results", "out"}
    fields = {field.name for field in dataclasses.fields(IngestRequest)} - {"command"}
    assert {name.rstrip("s") for name in options} == {name.rstrip("s") for name in fields}
