"""The stated formats are those that are written: READMEs, summary.json, and old versions."""

import dataclasses
import importlib
import importlib.util
import pkgutil
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from harness import report
from harness.analysis import dataset
from harness.errors import StoreError
from harness.results import records
from harness.results.files import parse_record, read_record, write_json
from harness.results.records import (
    CheckpointInfo,
    RunSpec,
    RunStatus,
    StepRecord,
    StudySummary,
    VariantChoice,
)
from variants import registry
from variants.base import AXES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def formats():
    spec = importlib.util.spec_from_file_location("formats", ROOT / "docs/formats.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("folder", ["results", "reports"])
def test_the_readme_is_in_step(formats, folder):
    """`make docs` writes it."""
    stated = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    assert stated == getattr(formats, f"{folder}_readme")()


def test_the_page_of_gpu_figures_is_in_step(formats):
    assert (ROOT / "docs/gpu.md").read_text(encoding="utf-8") == formats.gpu_page()


RECORDS = [
    record
    for module in pkgutil.iter_modules(records.__path__, f"{records.__name__}.")
    for record in vars(importlib.import_module(module.name)).values()
    if isinstance(record, type) and issubclass(record, BaseModel)
    if record.__module__ == module.name
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_field_has_a_description_and_no_record_can_change(record):
    missing = [name for name, field in record.model_fields.items() if not field.description]
    assert (
        not missing and record.model_config["frozen"] and record.model_config["extra"] == "forbid"
    )


def test_summary_json_has_the_stated_form(one_axis, no_figures, tmp_path):
    folder = report.write(one_axis.write().store, "tiny", tmp_path / "reports")
    read_record(folder / "summary.json", StudySummary)


@pytest.mark.parametrize(
    ("field", "value"),
    [("step_s", 0.0), ("step_s", float("inf")), ("tokens", 0), ("step", -1), ("los", 1.0)],
)
def test_a_value_out_of_range_is_rejected(field, value):
    line = {"step": 0, "loss": 2.0, "step_s": 0.1, "tokens": 64, "grad_norm": 1.0, "lr": 0.1}
    StepRecord(**line, warmup=False)
    with pytest.raises(ValidationError, match=field):
        StepRecord(**line | {"warmup": False, field: value})


def test_a_damaged_record_is_named_with_field_and_remedy(tmp_path):
    path = tmp_path / "status.json"
    write_json(path, RunStatus(status="done").model_dump() | {"attempts": "two"})
    with pytest.raises(StoreError, match=r"status\.json: attempts: .*; remove its folder to run"):
        read_record(path, RunStatus)
    write_json(path, {"schema_version": 2, "status": "running"})
    with pytest.raises(StoreError, match="`pid` and `pid_started`"):
        read_record(path, RunStatus)


@pytest.mark.parametrize(
    ("name", "old", "present"),
    [
        ("gqa", {"n_kv_head": 2, "kv": "first"}, {"n_kv_head": 2, "kv_pooling": "first"}),
        ("mqa", {"kv": "mean"}, {"kv_pooling": "mean"}),
        ("sliding_window", {"pattern": "LS"}, {"layer_pattern": "LS"}),
        ("mine", {"kv": 1, "pattern": 2}, {"kv": 1, "pattern": 2}),
    ],
)
def test_options_of_version_1_get_their_present_names(name, old, present):
    shape = {"n_layer": 1, "n_head": 4, "n_embd": 16, "seq_len": 8, "vocab_size": 32}
    attention = {"use": name, "label": "a", "options": old}
    content = {"schema_version": 1, "shape": shape, "axes": {"attention": attention}}
    content |= {"origin": {}, "variant_paths": [], "tokenizer": None}
    choice = parse_record(content, CheckpointInfo).axes["attention"]
    assert (choice.name, choice.options) == (name, present)


@pytest.mark.parametrize(
    ("old", "present"), [("nothing", "none"), ("weights", "weights"), ("state", "full")]
)
def test_version_1_keeps_the_same_checkpoints(fake, old, present):
    run = fake.write().store.runs(fake.name)[0]
    content = run.spec.model_dump() | {"schema_version": 1}
    launch = {"nproc": 1, "keep": old, "timeout_s": None, "variant_paths": []}
    spec = parse_record(content | {"launch": launch}, RunSpec)
    assert (spec.launch.keep_checkpoints, spec.launch.world_size) == (present, 1)


@pytest.mark.parametrize("axis", [axis for axis in AXES if not AXES[axis].in_hash_by_default])
def test_an_axis_that_a_spec_lacks_has_its_default(fake, axis):
    """Other options would set old runs apart from new ones of the same study."""
    spec = fake.write().store.runs(fake.name)[0].spec
    content = spec.model_dump()
    del content["axes"][axis], content["baseline"][axis]
    read = parse_record(content, RunSpec)
    default = AXES[axis].default
    options = dataclasses.asdict(registry.load(axis, default).Options())
    assert read.axes[axis] == VariantChoice(name=default, label=default, options=options)
    assert read.baseline[axis] == default
    present = [axis for axis in AXES if axis in read.axes]
    assert list(read.axes) == list(read.baseline) == present


def test_old_and_new_runs_are_in_one_table(fake):
    """Seeds that are added to a study of an older version belong to the same entries."""
    store = fake.write().store
    for run in store.runs(fake.name):
        if run.spec.seed == 0:
            write_json(run.path / "spec.json", run.spec)  # as a new version writes it
    for entry in dataset.read(store, fake.name).entries:
        assert [run.seed for run in entry.runs] == list(fake.seeds)
