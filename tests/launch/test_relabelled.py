"""Without these, a new label would train a study again, and list its results twice."""

from pathlib import Path

import pytest
from untrained_study import UntrainedStudy

from harness.config.axes import Axes
from harness.launch.relabelled import relabel, relabelled_runs
from harness.results.records import BatchRamp, DataSettings, ModelSettings, TrainSettings
from harness.results.records.base import short_hash
from harness.study.axes import same_variant
from variants import registry
from variants.base import AXES

REQUIRED = {
    ModelSettings: {"n_layer": 1, "n_head": 1, "n_embd": 8, "seq_len": 8},
    DataSettings: {"corpus": "synthetic"},
    TrainSettings: {"steps": 200, "tokens_per_step": 8},
    BatchRamp: {"start_tokens": 8, "steps": 2},
}
DEFAULTS = [
    (record, name)
    for record, required in REQUIRED.items()
    for name in record.model_fields
    if name not in required and record.model_fields[name].default is not None
]
OTHER_CONTENT = {
    "model": ("study.toml", "n_embd = 8", "n_embd = 16"),
    "train": ("study.toml", "steps = 4", "steps = 8"),
    "seed": ("study.toml", "seeds = [0]", "seeds = [1]"),
    "text": ("text.txt", "not", "NOT"),
}


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("os.fsync", lambda fd: None)
    return UntrainedStudy(tmp_path)


@pytest.mark.parametrize(("record", "name"), DEFAULTS)
def test_a_default_that_is_stated_is_no_other_setting(record, name):
    required = REQUIRED[record]
    stated = record(**required, **{name: record.model_fields[name].default})
    assert stated.hashed() == record(**required).hashed()


@pytest.mark.parametrize("axis", AXES)
def test_an_option_that_is_stated_at_its_default_is_no_other_variant(axis):
    axes = Axes("study.toml", [])
    n_options = 0
    for name in registry.files(axis):
        plain = axes.choose(axis, name, "axes")
        for option, value in plain.options.items() if plain is not None else ():
            if value is not None:
                stated = {"variant": name, option: value, "label": "other"}
                choice = axes.choose(axis, stated, "axes")
                assert same_variant(choice, plain), (name, option)
                n_options += 1
    assert n_options or axis in ("norm", "parallelism")


def test_equal_values_have_one_hash():
    assert short_hash({"a": [-0.0, {"b": -0.0}]}) == short_hash({"a": [0.0, {"b": 0.0}]})
    required = REQUIRED[TrainSettings]
    at_end = TrainSettings(**required, eval_every=200).hashed()
    for every in (201, 10_000):
        assert TrainSettings(**required, eval_every=every).hashed() == at_end
    assert TrainSettings(**required, eval_every=199).hashed() != at_end


def relabel_all(study, planned):
    equal = relabelled_runs(study.store, "s", planned.runs, planned.all_run_ids)
    by_id = {spec.run_id: spec for spec in planned.runs}
    return sum(relabel(study.store, by_id[run_id], run) for run_id, run in equal.items())


def with_axes(study, line):
    path = Path(study.folder / "study.toml")
    text = path.read_text().partition("norm =")[0].rstrip()
    path.write_text(f"{text}\n{line}\n")
    return study.plan()


def test_each_run_is_trained_and_stored_once_under_all_labels(study):
    assert len(study.run()) == 2
    lines = ['norm = ["layernorm"]', 'norm = [{ variant = "layernorm", label = "LN" }]', ""]
    for line in lines:
        planned = with_axes(study, line)
        assert relabel_all(study, planned) == 2
        assert study.run(planned) == [], "trained again"
        runs = study.store.runs("s")
        assert {run.run_id for run in runs} == {spec.run_id for spec in planned.runs}
        assert all(run.spec.run_id == run.run_id for run in runs)
        assert {run.spec.entry for run in runs} == {spec.entry for spec in planned.runs}
        assert relabel_all(study, planned) == 0


def test_another_variant_is_not_taken_over(study):
    study.run()
    planned = with_axes(study, 'norm = ["rmsnorm"]')
    assert relabel_all(study, planned) == 0


@pytest.mark.parametrize("change", OTHER_CONTENT)
def test_another_content_is_not_taken_over(change, study):
    """The result would be that of other settings, of other seeds or of another text."""
    study.run()
    file, old, new = OTHER_CONTENT[change]
    path = study.folder / file
    path.write_text(path.read_text().replace(old, new))
    planned = with_axes(study, 'norm = [{ variant = "layernorm", label = "LN" }]')
    assert relabel_all(study, planned) == 0
    assert len(study.run(planned)) == 2


def test_two_equal_entries_of_a_study_stay_two(study):
    """An A/A test measures the noise."""
    study.run()
    planned = with_axes(study, 'norm = ["layernorm", { variant = "layernorm", label = "again" }]')
    assert relabel_all(study, planned) == 2
    assert len(study.run(planned)) == 2
    assert relabel_all(study, planned) == 0 and len(study.store.runs("s")) == 4
