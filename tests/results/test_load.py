"""The Python API gives the numbers of the store and of the report in tidy frames."""

import doctest
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from synthetic_results import SyntheticStudy

import harness
from harness.analysis import study_frames, table_columns
from harness.errors import UserError
from harness.results.store import Store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the results of a synthetic study `tiny`."""
    folder = tmp_path_factory.mktemp("load")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda fd: None)
        SyntheticStudy(folder / "results").write()
        SyntheticStudy(folder / "probed/results", **PROBED).write()
    return folder


PROBED = {
    "axes": {"positional": ["rope", "learned"], "attention": ["mha"], "parallelism": ["single"]},
    "baseline": {"positional": "rope", "attention": "mha", "parallelism": "single"},
    "seeds": (0, 1),
    "steps": 4,
    "decode": ([1], [64]),
    "lengths": [64, 256],
    "outcome": {"rope-mha-single-s1": ("failed", "nan", "step 2: loss nan")},
}


@pytest.fixture
def probed(folder):
    return harness.load(folder / "probed/results")


@pytest.mark.parametrize("module", [harness, study_frames])
def test_the_examples_in_the_docstrings_work(folder, monkeypatch, module):
    monkeypatch.chdir(folder)
    result = doctest.testmod(module, extraglobs={"harness": harness})
    assert result.attempted > 0 and result.failed == 0


def test_importing_harness_loads_neither_pandas_nor_torch():
    code = "import sys, harness; print({'pandas', 'numpy', 'torch', 'pydantic'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"


def test_loading_results_never_loads_torch(folder):
    code = (
        "import sys, harness\n"
        "study = harness.load('probed/results')\n"
        "study.runs, study.steps, study.evals, study.entries, study.effects\n"
        "assert not {'torch', 'variants.base'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)


def test_steps_and_evals_are_what_the_store_recorded(folder, probed):
    for run in Store(folder / "probed/results").runs("tiny"):
        steps = probed.steps[probed.steps["run_id"] == run.run_id]
        recorded = run.steps()
        for name in ("step", "loss", "step_s", "tokens", "grad_norm", "lr", "warmup"):
            assert steps[name].tolist() == getattr(recorded, name).tolist(), name
        evals = probed.evals[probed.evals["run_id"] == run.run_id]
        assert evals["val_loss"].tolist() == [line.val_loss for line in run.evals()]
        assert set(steps["entry"]) == {run.spec.entry} and set(steps["seed"]) == {run.spec.seed}


def test_a_run_that_is_not_done_has_no_results(probed):
    runs = probed.runs.set_index(["entry", "seed"])
    failed = runs.loc[("rope-mha-single", 1)]
    assert (failed["status"], failed["reason"]) == ("failed", "nan")
    assert failed["steps_recorded"] == 2
    results = ["val_loss", "tokens_per_s", "step_s", "mfu", "mfu_full_attention"]
    results += ["peak_memory_bytes", "parameters"]
    assert failed[results].isna().all()
    assert runs.loc[("rope-mha-single", 0), results].notna().all()


def test_runs_agree_with_the_entries_of_the_report(probed):
    done = probed.runs[probed.runs["status"] == "done"]
    means = done.groupby("entry", observed=True)["val_loss"].mean()
    assert means.to_numpy() == pytest.approx(probed.entries["val_loss"].to_numpy(), rel=1e-15)
    run = done[done["entry"] == "rope-mha-single"].iloc[0]
    entry = probed.entries[probed.entries["entry"] == "rope-mha-single"].iloc[0]
    speeds = ("step_s", "tokens_per_s", "mfu", "mfu_full_attention")
    for name in (*speeds, "peak_memory_bytes", "flops_per_token"):
        assert run[name] == entry[name], name


def test_the_speed_of_a_diverging_entry_is_missing(folder, monkeypatch):
    label = "rope-gqa2-fsdp2"
    monkeypatch.setattr("harness.analysis.equivalence.by_entry", lambda _: {label: "DIVERGES"})
    runs = harness.load(folder / "results").runs
    is_diverging = runs["entry"] == label
    assert runs.loc[is_diverging, ["tokens_per_s", "step_s", "mfu"]].isna().all(axis=None)
    assert runs.loc[~is_diverging, ["tokens_per_s", "step_s", "mfu"]].notna().all(axis=None)
    assert runs["val_loss"].notna().all()


def test_only_the_requested_columns_are_read(probed):
    assert list(probed.read_steps(["loss", "run_id"])) == ["run_id", "loss"]
    assert list(probed.read_evals(["step"])) == ["step"]
    with pytest.raises(KeyError, match=r"unknown columns \['los'\]; allowed: run_id, entry"):
        probed.read_steps(["los"])


@pytest.mark.parametrize("name", [*table_columns.COLUMNS, "steps", "evals", "examples"])
def test_every_frame_has_the_documented_columns(probed, name):
    frame = getattr(probed, name) if hasattr(probed, name) else probed.table(name)
    documented = probed.columns(name)
    assert list(frame) == list(documented.index)
    assert documented["meaning"].str.len().min() > 0
    assert frame.attrs["train"]["steps"] == 4 and frame.attrs["study"] == "tiny"


def test_axes_and_entries_are_ordered_categories(probed):
    assert list(probed.runs["positional"].cat.categories) == ["rope", "learned"]
    assert list(probed.entries["entry"].cat.categories) == ["rope-mha-single", "learned-mha-single"]
    assert all(isinstance(probed.steps[axis].dtype, pd.CategoricalDtype) for axis in probed.axes)


def test_losses_keep_every_digit(probed):
    assert probed.steps["loss"].dtype == np.float64 and probed.evals["val_loss"].dtype == np.float64


def test_a_study_must_be_named_if_there_are_several(folder, tmp_path):
    with pytest.raises(UserError, match="holds no results; run a study first"):
        harness.load(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        harness.load(tmp_path / "absent")
    with pytest.raises(UserError, match="no results"):
        harness.load(folder / "results", study="absent")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name in "ab":
        (tmp_path / name / "launches.jsonl").touch()
    with pytest.raises(UserError, match=r"2 studies; name one: .*allowed: a, b"):
        harness.load(tmp_path)
