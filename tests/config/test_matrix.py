"""Without these, a study could train entries that nobody requested, or miss some."""

import json

import pytest

from harness.config import load
from harness.errors import UserError
from harness.results.records import LaunchInputs, RunSpec, Superiority

INPUTS = LaunchInputs(
    study_file="",
    folder="",
    settings=[],
    seeds=None,
    where=[],
    packages="",
    git_commit=None,
    data_folder=None,
)


def ids(study):
    return [spec.entry for spec in study.runs]


def test_the_matrix_is_the_product_of_axes_and_seeds(write_study):
    study = load(write_study())
    assert len(study.runs) == 2 * 3 * 2 * 2
    assert [spec.seed for spec in study.runs] == [0] * 12 + [1] * 12
    assert ids(study)[:3] == ["learned-mha-single", "learned-mha-ddp2", "learned-gqa2-single"]
    hashes = {spec.run_id.rsplit("-", 1)[1] for spec in study.runs}
    assert len(hashes) == len(study.runs)  # the hash covers the seed


def test_a_missing_axis_gets_the_variant_of_gpt2(write_study):
    text = write_study().read_text()
    axes = text[text.index("positional = [") : text.index("parallelism = [")]
    study = load(write_study((axes, "")))
    assert ids(study) == ["learned-mha-single", "learned-mha-ddp2"] * 2


def test_exclude_removes_with_its_reason_and_include_adds(write_study):
    rules = """
[[exclude]]
attention = ["sliding_window", "gqa2"]
parallelism = "ddp"
reason = "known"
[[include]]
positional = "none"
attention = { variant = "gqa", n_kv_head = 1 }
"""
    study = load(write_study(more=rules))
    assert len(study.runs) == 2 * (12 - 4 + 1)
    assert study.excluded[0] == ("learned-gqa2-ddp2", "known") and len(study.excluded) == 4
    assert ids(study)[8] == "none-gqa1-single"  # a missing axis gets the baseline's variant


def test_equal_entries_are_run_once(write_study):
    same = (
        'positional = ["learned", "rope"]',
        'positional = ["rope", "rope", { variant = "rope", theta = 10000.0 }]',
    )
    rules = "[[include]]\npositional = 'rope'\n"
    study = load(
        write_study(same, ('positional = "learned", a', 'positional = "rope", a'), more=rules)
    )
    assert set(ids(study)) == {
        f"rope-{a}-{p}" for a in ("mha", "gqa2", "sliding_window4") for p in ("single", "ddp2")
    }
    assert len(study.runs) == 12


def test_a_list_of_options_stays_readable_in_a_runs_name(write_study):
    elements = (
        '{ variant = "sliding_window", window = [4, 16] }, '
        '{ variant = "sliding_window", window = [41, 6] }]'
    )
    study = load(write_study(('{ variant = "sliding_window", window = 4 }]', elements)))
    labels = {spec.axes["attention"].label for spec in study.runs}
    assert labels == {"mha", "gqa2", "sliding_window4.16", "sliding_window41.6"}


def test_one_label_for_two_choices_is_refused(write_study):
    two = (
        '"rope"]',
        '{ variant = "rope", label = "x" }, { variant = "rope", theta = 5.0, label = "x" }]',
    )
    with pytest.raises(UserError, match="two different choices are labelled 'x'"):
        load(write_study(two))


def test_the_command_line_selects_and_overrides(write_study):
    path = write_study()
    settings = ["train.steps=7", "data.tokenizer=bytes"]
    study = load(path, settings, [5], ["attention=gqa", "parallelism=single,ddp2"])
    assert ids(study) == [
        "learned-gqa2-single",
        "learned-gqa2-ddp2",
        "rope-gqa2-single",
        "rope-gqa2-ddp2",
    ]
    assert {spec.seed for spec in study.runs} == {5} and study.runs[0].train.steps == 7
    assert len(study.all_run_ids) == 12  # also those that are not selected


def test_the_run_id_covers_settings_seed_and_corpus(write_study):
    path = write_study()

    def run_id(*settings, seeds=None):
        return load(path, settings, seeds).runs[0].run_id

    before = run_id()
    assert before == run_id("launch.timeout_s=5", "study.name='other'")
    changed = [run_id("train.lr=0.5", "probes.eval_lengths=[8]"), run_id(seeds=[1])]
    (path.parent / "text.txt").write_text("Something else entirely.\n" * 40)
    assert len({before, run_id(), *changed}) == 4


def test_the_axes_that_are_asked_are_recorded_not_hashed(write_study):
    plain = load(write_study())
    asked = load(write_study(("seeds =", 'compare = ["attention"]\nseeds =')))
    assert asked.all_run_ids == plain.all_run_ids
    assert asked.launch_record("run", asked.runs, INPUTS).compare == ["attention"]
    assert plain.launch_record("run", plain.runs, INPUTS).compare is None


def test_superiority_is_recorded_not_hashed(write_study):
    stated = (
        "superiority = { val_loss = 0.005 }\nequivalence_margin = { val_loss = 0.005 }\nseeds ="
    )
    plain = load(write_study())
    asked = load(write_study(("seeds =", stated)))
    assert asked.all_run_ids == plain.all_run_ids
    assert asked.settings_hash == plain.settings_hash
    launch = asked.launch_record("run", asked.runs, INPUTS)
    assert launch.superiority == Superiority(val_loss=0.005)


def test_cross_seeds_adds_runs_and_keeps_the_others(write_study):
    plain = load(write_study())
    crossed = load(write_study(("seeds = [0, 1]", "seeds = [0, 1, 2]\ncross_seeds = true")))
    pairs = {(spec.seed, spec.order_seed) for spec in crossed.runs}
    assert pairs == {(i, j) for i in range(3) for j in range(3)} and len(crossed.runs) == 9 * 12
    crossed_ids = {spec.run_id for spec in crossed.runs}
    assert {spec.run_id for spec in plain.runs} <= crossed_ids == crossed.all_run_ids
    assert {spec.settings_hash for spec in crossed.runs} == {plain.settings_hash}
    spec = next(spec for spec in crossed.runs if (spec.seed, spec.order_seed) == (0, 2))
    assert spec.run_id.startswith("learned-mha-single-s0d2-")
    assert [spec.seed for spec in crossed.runs] == [0] * 36 + [1] * 36 + [2] * 36


def test_an_edited_variant_changes_the_code_not_the_run_id(write_study):
    path = write_study(
        ("seeds =", 'variant_paths = ["mine"]\nseeds ='),
        ('"rope"]', '"ours"]'),
    )
    file = path.parent / "mine/positional/ours.py"
    file.parent.mkdir(parents=True)
    source = "from variants.base import Positional\nclass Ours(Positional):\n    pass\n"
    file.write_text(source)
    first = load(path, where=["positional=ours"]).runs[0]
    file.write_text(source + "# changed\n")
    assert load(path, where=["positional=ours"]).runs[0] == first
    file.write_text(source + "x = 1\n")
    edited = load(path, where=["positional=ours"]).runs[0]
    assert edited.run_id == first.run_id and edited.code_hash != first.code_hash
    assert first.launch.variant_paths == [str(path.parent / "mine")]


def test_a_spec_survives_its_file(write_study):
    spec = load(write_study()).runs[-1]
    assert RunSpec.model_validate(json.loads(json.dumps(spec.model_dump()))) == spec
    assert spec.entry == "rope-sliding_window4-ddp2"


def test_expected_costs_come_from_the_model(write_study):
    runs = load(write_study(), ["model.n_layer=1"]).runs
    costs = {spec.entry: spec.expected for spec in runs}
    mha = costs["learned-mha-single"]
    C, V, T = 32, 256, 16
    block = 4 * C + 3 * C * C + 3 * C + C * C + C + 8 * C * C + 5 * C
    assert mha.parameters == V * C + T * C + block + 2 * C
    half_of_keys_and_values = C * C + C
    assert costs["learned-gqa2-single"].parameters == mha.parameters - half_of_keys_and_values
    assert costs["rope-mha-single"].parameters == mha.parameters - T * C
    assert mha.flops_per_token == 3 * (2 * (12 * C * C + V * C) + 4 * C * (T + 1) / 2)
    fewer_keys = (T + 1) / 2 - (4 - 12 / 32)  # per query, in a window of 4
    window = costs["learned-sliding_window4-single"]
    assert window.flops_per_token == mha.flops_per_token - 3 * 4 * C * fewer_keys
    # Each of two ranks has half of the sequences.
    assert costs["learned-mha-ddp2"].memory_bytes < mha.memory_bytes
