"""A report that follows an edited file equals that of a study which stated the same from the start.

Runs have the results of their settings and seed, whatever their labels are.
"""

import json
import re
from pathlib import Path

import pytest
from synthetic_results import SyntheticStudy

from harness import report
from harness.analysis import dataset, followed, summary
from harness.analysis.selection import WHOLE, Selection
from harness.config import load
from harness.results.records import Environment, ProbeResults, RunSpec
from harness.results.store import Store

STUDY = """
[study]
name = "tiny"
seeds = [0, 1, 2, 3]
[model]
n_layer = 1
n_head = 4
n_embd = 8
seq_len = 8
[data]
corpus = "synthetic"
[train]
steps = 12
tokens_per_step = 32
lr = 1e-3
eval_every = 4
precision = "fp32"
[axes]
positional = ["learned", "rope"]
attention = ["mha", { variant = "gqa", n_kv_head = 2 }]
"""


TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.\d]*")
RUN_ID = re.compile(r"[\w-]+(?=-s\d-\w{8})")


def record(store: Store, spec: RunSpec) -> None:
    """Write the results that depend on the settings and seed of a run."""
    made_up = SyntheticStudy(store.root)
    names = [spec.axes["positional"].name, spec.axes["attention"].name]
    labels = tuple({"gqa": "gqa2"}.get(name, name) for name in names)
    run = store.run(spec.study, spec.run_id)
    run.create(spec)
    run.mark_running()
    run.write_env(Environment(**made_up.environment(1)))
    of_settings = spec.model_copy(update={"entry": "-".join(labels)})
    made_up.curves(run, of_settings, labels, spec.train.steps, 1)
    run.write_probes(ProbeResults.model_validate(made_up.probes(labels, spec.seed, 1)))
    run.finish("done")


def launch(folder: Path, text: str) -> tuple[Store, Path]:
    """Write a study file, and the results that its runs would have."""
    folder.mkdir(exist_ok=True)
    file = folder / "study.toml"
    file.write_text(text)
    store = Store(folder / "results")
    planned = load(file)
    for spec in planned.runs:
        if not store.run(spec.study, spec.run_id).path.exists():
            record(store, spec)
    store.record_launch("tiny", planned.launch_record("run", planned.runs))
    return store, file


def results(store: Store, file: Path | None = None, selection: Selection = WHOLE) -> dict:
    """Return what summary.json states, without what names the launches and the study file."""
    following = None if file is None else followed.read(file)
    study = dataset.read(store, "tiny", following=following, selection=selection)
    record = summary.as_record(summary.summarize(study, "2026-01-01T00:00:00+00:00"))
    of_the_request = {"launches", "study_file", "selected", "settings_groups", "left_out"}
    text = record.model_dump_json(exclude=of_the_request)
    return json.loads(RUN_ID.sub("", text))  # it begins with the labels of the launch


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> tuple[Store, Path]:
    """Return the results of STUDY, and its file."""
    return launch(tmp_path_factory.mktemp("before"), STUDY)


ROPE = 'baseline = { positional = "rope" }\nseeds'
EDITS = {
    "nothing": {},
    "a margin": {"seeds": "equivalence_margin = { val_loss = 0.1, tokens_per_s = 0.2 }\nseeds"},
    "superiority": {"seeds": "superiority = { val_loss = 0.05 }\nseeds"},
    "compare": {"seeds": 'compare = ["attention"]\nseeds'},
    "a baseline": {"seeds": ROPE},
    "a label": {"n_kv_head = 2 }": 'n_kv_head = 2, label = "shared" }'},
    "a level removed": {', { variant = "gqa", n_kv_head = 2 }': ""},
    "an entry excluded": {
        "[axes]": '[[exclude]]\npositional = "rope"\nattention = "gqa"\nreason = "no"\n[axes]'
    },
}


def edited(replaced: dict[str, str]) -> str:
    text = STUDY
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new, 1)
    return text


@pytest.mark.parametrize("edit", EDITS)
def test_verdicts_are_those_of_a_study_stated_so(edit, before, tmp_path):
    text = edited(EDITS[edit])
    file = tmp_path / "edited.toml"
    file.write_text(text)
    start, _ = launch(tmp_path / "start", text)
    assert results(before[0], file) == results(start)


def test_another_baseline_gives_the_verdicts_of_a_study_with_that(before, tmp_path):
    start, _ = launch(tmp_path, edited(EDITS["a baseline"]))
    assert results(before[0], None, Selection(baseline=["positional=rope"])) == results(start)


def test_selected_entries_have_the_verdicts_of_a_study_of_these(before, tmp_path):
    rule = '[[exclude]]\npositional = "rope"\nattention = "mha"\nreason = "no"\n[axes]'
    start, _ = launch(tmp_path, edited({"[axes]": rule}))
    selection = Selection(where=["attention=gqa"])
    found = results(before[0], None, selection)
    labels = [entry["entry"] for entry in found["entries"]]
    assert labels == ["learned-mha-single", "learned-gqa2-single", "rope-gqa2-single"]
    assert found == results(start)


def test_selected_settings_have_the_results_of_a_study_of_these(before, tmp_path):
    launch(tmp_path, STUDY)
    both, _ = launch(tmp_path, edited({"steps = 12": "steps = 8"}))
    newest = dataset.read(both, "tiny")
    assert newest.spec.train.steps == 8 and newest.left_out == 16
    (other,) = {group.settings_hash for group in newest.settings_groups if not group.reported}
    assert results(both, None, Selection(settings=other[:4])) == results(before[0])


def test_looks_that_are_stated_after_the_results_are_not_planned(before, tmp_path):
    file = tmp_path / "edited.toml"
    file.write_text(edited({"seeds": "looks = [2, 8]\nseeds"}))
    study = dataset.read(before[0], "tiny", following=followed.read(file))
    assert not study.looks.planned and study.level == 0.025
    assert [len(look.seeds) for look in study.looks.looks] == [4, 8]


def test_the_report_of_an_unedited_file_is_that_of_the_newest_launch(before, tmp_path, no_figures):
    store, file = before
    by_name = report.write(store, "tiny", tmp_path / "name")
    by_file = report.write(store, "tiny", tmp_path / "file", study_file=file)
    paths = sorted(path.relative_to(by_name) for path in by_name.rglob("*") if path.is_file())
    assert paths == sorted(path.relative_to(by_file) for path in by_file.rglob("*.*"))
    for path in paths:
        texts = [(folder / path).read_text() for folder in (by_name, by_file)]
        if path.name == "summary.json":
            contents = [json.loads(text) for text in texts]
            assert contents[1].pop("study_file")["left_out"] == 0
            assert contents[0].pop("study_file") is None
            texts = [json.dumps(content | {"created_at": ""}) for content in contents]
        named, followed_text = [TIME.sub("", text) for text in texts]
        assert named == followed_text, path


def test_runs_without_titles_get_those_of_the_file(before, tmp_path):
    store, file = launch(tmp_path, STUDY)
    for run in store.runs("tiny"):
        axes = {axis: one.model_copy(update={"title": ""}) for axis, one in run.spec.axes.items()}
        run.update_spec(run.spec.model_copy(update={"axes": axes}))
    titles = [entry.title for entry in dataset.read(before[0], "tiny").entries]
    study = dataset.read(store, "tiny", following=followed.read(file))
    assert [entry.title for entry in study.entries] == titles
