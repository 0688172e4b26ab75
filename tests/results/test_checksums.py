"""A run that is done has the results that it wrote, not those of another run."""

import json
import shutil

import pytest
from planted_runs import PROBES, finish
from synthetic_results import SyntheticStudy

from harness.results.records import ProbeResults
from harness.results.run_data import RunData, read_run
from harness.results.store import Store

EXAMPLES = '{"schema_version": 3, "tasks": [], "groups": []}'


def copy(run, other, name):
    shutil.copyfile(other.path / name, run.path / name)


def edit_loss(run, _):
    path = run.path / "eval.jsonl"
    line = json.loads(path.read_text())
    path.write_text(json.dumps(line | {"val_loss": line["val_loss"] - 0.01}) + "\n")


CHANGES = {
    "an edited loss": ("eval.jsonl", edit_loss),
    "evaluations of another run": ("eval.jsonl", lambda *runs: copy(*runs, "eval.jsonl")),
    "steps of another run": ("steps.rank0.jsonl", lambda *runs: copy(*runs, "steps.rank0.jsonl")),
    "steps of another rank": (
        "steps.rank1.jsonl",
        lambda run, _: shutil.copyfile(run.steps_path(0), run.steps_path(1)),
    ),
    "other examples": (
        "examples.json",
        lambda run, _: (run.path / "examples.json").write_text(f"{EXAMPLES} "),
    ),
    "probes of another run": ("eval.jsonl", lambda *runs: copy(*runs, "probes.json")),
}


@pytest.fixture
def runs(tmp_path):
    """Two runs that are done, of equal length and with different curves."""
    study = SyntheticStudy(tmp_path / "results")
    runs = []
    for seed, loss in enumerate((2.0, 3.0)):
        spec = study.spec("a", ("learned", "mha", "single"), seed, None, f"a-s{seed}", 1)
        run = Store(study.root).run("study", spec.run_id)
        run.create(spec)
        run.mark_running()
        (run.path / "examples.json").write_text(EXAMPLES)
        finish(run, loss, (0.1 + seed,))
        run.write_probes(ProbeResults.model_validate(PROBES | {"checksums": run.checksums()}))
        assert isinstance(read_run(run), RunData)
        runs.append(run)
    return runs


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_a_run_has_not_written_is_named(runs, change):
    run, other = runs
    name, apply = CHANGES[change]
    apply(run, other)
    assert read_run(run).why.startswith(f"{name}: is not the file that the run wrote; remove its ")
    assert isinstance(read_run(other), RunData)


def test_missing_examples_are_named(runs):
    run, _ = runs
    (run.path / "examples.json").unlink()
    assert "states a checksum of examples.json, which is missing" in read_run(run).why


def test_runs_of_older_versions_have_no_checksums(runs):
    run, _ = runs
    run.write_probes(ProbeResults.model_validate(PROBES))
    edit_loss(run, None)
    assert isinstance(read_run(run), RunData)
