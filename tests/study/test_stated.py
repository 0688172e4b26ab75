"""A report of a study file covers the runs that `run` of the file would reuse, by its labels.

Both read the same file: `harness.config` builds the variants, `harness.study` does not.
"""

from pathlib import Path

import pytest

from harness.config import load
from harness.errors import UserError
from harness.study import stated

ROOT = Path(__file__).parents[2]
SHIPPED = ["ablations.toml", *(f"studies/{path.name}" for path in ROOT.glob("studies/*.toml"))]
STUDY = """
[study]
name = "tiny"
seeds = [0, 1]
[model]
n_layer = 1
n_head = 2
n_embd = 8
seq_len = 8
[data]
corpus = "synthetic"
[train]
steps = 4
tokens_per_step = 32
lr = 1e-3
[axes]
positional = ["learned", "rope"]
attention = ["mha", { variant = "gqa", n_kv_head = 1 }]
"""
RATES = '"train.lr" = [1e-3, 3e-3]\n'
AA = 'attention = ["mha", { variant = "mha", label = "again" }]'
LENGTHS = '"train.steps" = ["tokens_per_step / 8", 8]\n'
GQA = '{ variant = "gqa", n_kv_head = 1 }'
# (study before, text that is replaced, its replacement)
EDITS = {
    "nothing": (STUDY, "", ""),
    "a label": (STUDY, "n_kv_head = 1 }", 'n_kv_head = 1, label = "shared" }'),
    "a label of the default": (STUDY, '"learned",', '{ variant = "learned", label = "base" },'),
    "a level removed": (STUDY, f", {GQA}", ""),
    "a level added": (STUDY, '"rope"]', '"rope", "alibi"]'),
    "another option": (STUDY, "n_kv_head = 1", "n_kv_head = 2"),
    "a default spelled out": (STUDY, '"rope"]', '{ variant = "rope", theta = 10000.0 }]'),
    "a default changed": (STUDY, '"rope"]', '{ variant = "rope", theta = 500.0 }]'),
    "an axis removed": (STUDY, f'attention = ["mha", {GQA}]', ""),
    "an axis added": (STUDY, "[axes]", '[axes]\nnorm = ["layernorm", "rmsnorm"]'),
    "an entry excluded": (
        STUDY,
        "[axes]",
        '[[exclude]]\npositional = "rope"\nattention = "gqa"\nreason = "no"\n[axes]',
    ),
    "an entry included": (STUDY, "[axes]", '[[include]]\npositional = "alibi"\n[axes]'),
    "seeds": (STUDY, "seeds = [0, 1]", "seeds = [0, 1, 5]"),
    "a baseline": (STUDY, "seeds", 'baseline = { positional = "rope" }\nseeds'),
    "margins": (STUDY, "seeds", "equivalence_margin = { val_loss = 0.5 }\nseeds"),
    "a level of settings removed": (f"{STUDY}{RATES}", "3e-3]", "2e-3]"),
    "a label of settings": (f"{STUDY}{RATES}", "3e-3]", '{ value = 3e-3, label = "fast" }]'),
    "labels swapped": (
        f"{STUDY}{RATES}",
        "[1e-3, 3e-3]",
        '[{ value = 1e-3, label = "lr0.003" }, { value = 3e-3, label = "lr0.001" }]',
    ),
    "an expression": (f"{STUDY}{LENGTHS}", "8]", "16]"),
    "size matched": (
        STUDY.replace("seeds", 'match_size = "parameters"\nseeds').replace(
            "n_kv_head = 1", "n_kv_head = 2"
        ),
        '"rope"]',
        '{ variant = "rope", label = "rotary" }]',
    ),
    "one of two equal entries removed": (
        STUDY.replace(f'attention = ["mha", {GQA}]', AA),
        ', { variant = "mha", label = "again" }',
        "",
    ),
}


def content(spec) -> str:
    """Return the part of a run's id that does not depend on labels."""
    return spec.run_id.rpartition("-")[2]


@pytest.mark.parametrize(("before", "old", "new"), EDITS.values(), ids=EDITS)
def test_report_and_run_agree_on_the_entries_of_an_edited_file(before, old, new, tmp_path):
    file = tmp_path / "study.toml"
    file.write_text(before)
    runs = load(file).runs
    edited = before.replace(old, new, 1)
    assert (edited != before) == bool(old)
    file.write_text(edited)
    planned = load(file).runs
    entries = {(content(spec), spec.entry) for spec in planned}
    known = {content(spec) for spec in planned}
    axes = {spec.entry: (spec.labels, spec.baseline) for spec in planned}
    study = stated.read(file)
    for spec in runs:
        placed = study.place(spec)
        assert (placed is not None) == (content(spec) in known), spec.entry
        if placed is not None:
            assert (content(spec), placed.entry) in entries
            assert (placed.labels, placed.baseline) == axes[placed.entry]
            assert not study.differences(placed)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_run_of_a_shipped_study_is_placed_as_it_was_run(name):
    elsewhere = ["data.corpus=synthetic", "data.tokenizer=bytes", "train.device=cpu"]
    planned = load(ROOT / name, elsewhere)
    study = stated.read(ROOT / name)
    runs = planned.runs if planned.tuning is None else planned.tuning.possible_runs()
    assert runs
    for spec in runs:
        assert study.place(spec) == spec
        keys = {found.key for found in study.differences(spec)}
        is_source = spec.entry.startswith("start-")
        assert is_source or keys <= {"data.corpus", "data.tokenizer", "train.device"}


SETTINGS = {
    "train.steps": ("steps = 4", "steps = 5", "5", "4"),
    "model.n_embd": ("n_embd = 8", "n_embd = 16", "16", "8"),
    "train.warmup_steps": ("lr = 1e-3", "warmup_steps = 1", "1", "0"),
    "data.tokenizer": ('"synthetic"', '"synthetic"\ntokenizer = "gpt2"', "gpt2", "bytes"),
    "data.corpus": ('"synthetic"', '"mine.txt"', "mine.txt", "synthetic"),
}


@pytest.mark.parametrize("key", SETTINGS)
def test_settings_that_runs_do_not_have_are_found(key, tmp_path):
    old, new, value, used = SETTINGS[key]
    file = tmp_path / "study.toml"
    file.write_text(STUDY)
    spec = load(file).runs[0]
    file.write_text(STUDY.replace(old, new))
    (found,) = stated.read(file).differences(spec)
    assert (found.key, str(found.stated), str(found.used)) == (key, value, used)


INVALID = {
    "an unknown key": ("seeds", "sedes", "study.sedes"),
    "no such variant": ('"rope"]', '"ropee"]', "axes.positional[1]"),
    "an unknown option": ("n_kv_head = 1", "n_kv_head = 1, heads = 2", "axes.attention[1].heads"),
    "a missing option": ("n_kv_head = 1", 'label = "x"', "axes.attention[1].n_kv_head"),
    "no such baseline": ("seeds", 'baseline = { positional = "x" }\nseeds', "study.baseline"),
    "a comparison of one level": ("seeds", 'compare = ["norm"]\nseeds', "study.compare[0]"),
    "two equal labels": ('"rope"]', '{ variant = "rope", label = "learned" }]', "axes.positional"),
    "no such setting": ("lr = 1e-3", "lrr = 1e-3", "train.lrr"),
}


@pytest.mark.parametrize(("old", "new", "place"), INVALID.values(), ids=INVALID)
def test_an_invalid_file_has_the_errors_of_run(old, new, place, tmp_path):
    file = tmp_path / "study.toml"
    file.write_text(STUDY.replace(old, new, 1))
    with pytest.raises(UserError) as ours:
        stated.read(file)
    with pytest.raises(UserError) as theirs:
        load(file)
    assert f"{file}: {place}" in str(ours.value)
    assert {str(problem) for problem in ours.value.problems} <= {
        str(problem) for problem in theirs.value.problems
    }
