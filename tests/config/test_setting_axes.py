"""Without these, a run could train with other settings than its labels and its table say."""

import pytest

from harness.config import load
from harness.errors import UserError

LR = '"train.lr" = [1e-3, 3e-3]\n'
SIZE = """
size = [
    { label = "S", "model.n_layer" = 1, "model.n_embd" = 16, "train.steps" = 3 },
    { label = "M", "model.n_layer" = 2, "model.n_embd" = 32, "train.steps" = 5 },
]
"""


def hashes(study):
    return {spec.run_id.rsplit("-", 1)[1] for spec in study.runs}


@pytest.fixture
def write(write_study):
    """Return a function that writes a study with these axes of settings."""

    def write_axes(*axes, more=""):
        small = 'attention = ["mha", "mqa"]'
        start = 'attention = ["mha", { variant = "gqa", n_kv_head = 2 }, '
        text = start + '{ variant = "sliding_window", window = 4 }]'
        parallel = 'parallelism = ["single", { variant = "ddp", nproc = 2 }]'
        return write_study((text, small), (parallel, ""), more="".join(axes) + more)

    return write_axes


def test_levels_combine_with_variants_in_product(write):
    study = load(write(LR, SIZE))
    assert len(study.runs) == 2 * 2 * 2 * 2 * 2
    for spec in study.runs:
        size = spec.axes["size"]
        assert spec.entry.endswith(f"-{spec.axes['train.lr'].label}-{size.label}")
        assert spec.axes["train.lr"].options == {"train.lr": spec.train.lr}
        is_small = size.label == "S"
        shape = (spec.model.n_layer, spec.model.n_embd, spec.train.steps)
        assert shape == ((1, 16, 3) if is_small else (2, 32, 5))
        assert spec.expected.parameters < 15_000 if is_small else spec.expected.parameters > 15_000
        assert spec.baseline["train.lr"] == "lr0.001" and spec.baseline["size"] == "S"
    assert len({spec.run_id for spec in study.runs}) == len(study.runs)
    assert {spec.settings_hash for spec in study.runs} == {study.settings_hash}


def test_a_level_with_the_sections_value_has_the_content_of_the_plain_study(write):
    plain = load(write())
    lr = load(write(LR), where=["train.lr=0.001"])
    assert hashes(lr) == hashes(plain)
    assert not hashes(load(write(LR), where=["train.lr=0.003"])) & hashes(plain)
    assert lr.settings_hash != plain.settings_hash  # the study may hold other levels


def test_the_section_may_leave_out_what_an_axis_sets(write):
    path = write(SIZE)
    with_section = load(path).all_run_ids
    path.write_text(path.read_text().replace("n_layer = 2\nn_head", "n_head", 1))
    assert load(path).all_run_ids == with_section


@pytest.mark.parametrize(
    ("condition", "n_entries"),
    [
        ("train.lr=0.003", 8),
        ("train.lr=lr0.003", 8),
        ("train.lr=3e-3,1e-3", 16),
        ("size=S", 8),
        ("size=S,M", 16),
    ],
)
def test_a_level_is_selected_by_its_label_or_value(write, condition, n_entries):
    study = load(write(LR, SIZE), where=[condition], seeds=[0])
    assert len(study.runs) == n_entries


def test_rules_and_the_baseline_name_levels(write):
    rules = """
[[exclude]]
size = "M"
"train.lr" = 0.003
reason = "slow"
[[include]]
attention = "mqa"
"train.lr" = 0.1
"""
    path = write(LR, SIZE, more=rules)
    text = path.read_text().replace("baseline = {", 'baseline = { size = "M", "train.lr" = 3e-3,')
    path.write_text(text)
    study = load(path, seeds=[0])
    assert study.runs[0].baseline["size"] == "M"
    assert study.runs[0].baseline["train.lr"] == "lr0.003"
    labels = {(spec.axes["size"].label, spec.train.lr) for spec in study.runs}
    assert labels == {("S", 1e-3), ("S", 3e-3), ("M", 1e-3), ("M", 0.1)}


def test_dotted_keys_need_no_quotes(write):
    quoted = load(write(LR, SIZE)).all_run_ids
    assert load(write(LR.replace('"', ""), SIZE.replace('"model.n_layer"', "model.n_layer")))
    unquoted = write(LR.replace('"', ""), SIZE.replace('"model.n_layer"', "model.n_layer"))
    assert {hash_of.rsplit("-", 1)[1] for hash_of in quoted} == {
        hash_of.rsplit("-", 1)[1] for hash_of in load(unquoted).all_run_ids
    }
    replaced = load(write(LR), ["axes.train.lr=[0.5, 0.25]"])
    assert {spec.train.lr for spec in replaced.runs} == {0.5, 0.25}


def problems(path, *args, **kwargs):
    with pytest.raises(UserError) as error:
        load(path, *args, **kwargs)
    return [str(problem).removeprefix(f"{path}: ") for problem in error.value.problems]
