"""A matrix that silently holds too little, too much, or the wrong thing wastes days of training."""

import json

import pytest

from harness.config import load
from harness.errors import UserError
from harness.results.records import RunSpec


def ids(study):
    return [spec.entry for spec in study.runs]


def test_the_matrix_is_the_product_of_axes_and_seeds(write_study):
    study = load(write_study())
    assert len(study.runs) == 2 * 3 * 2 * 2
    assert [spec.seed for spec in study.runs] == [0] * 12 + [1] * 12
    assert ids(study)[:3] == ["learned-mha-single", "learned-mha-ddp2", "learned-gqa2-single"]
    assert len({spec.run_id.rsplit("-", 1)[1] for spec in study.runs}) == len(
        study.runs
    )  # the hash covers the seed


def test_an_axis_that_is_left_out_gets_gpt2s_own_variant(write_study):
    text = write_study().read_text()
    study = load(
        write_study((text[text.index("positional = [") : text.index("parallelism = [")], ""))
    )
    assert ids(study) == ["learned-mha-single", "learned-mha-ddp2"] * 2


def test_exclude_takes_away_and_tells_why_and_include_adds(write_study):
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
    assert ids(study)[8] == "none-gqa1-single"  # what a rule leaves out is the baseline's


def test_what_is_the_same_is_run_once(write_study):
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


def test_one_label_for_two_things_is_refused(write_study):
    two = (
        '"rope"]',
        '{ variant = "rope", label = "x" }, { variant = "rope", theta = 5.0, label = "x" }]',
    )
    with pytest.raises(UserError, match="two different choices are labelled 'x'"):
        load(write_study(two))


def test_the_command_line_narrows_and_changes(write_study):
    path = write_study()
    study = load(
        path,
        ["train.steps=7", "data.tokenizer=bytes"],
        [5],
        ["attention=gqa", "parallelism=single,ddp2"],
    )
    assert ids(study) == [
        "learned-gqa2-single",
        "learned-gqa2-ddp2",
        "rope-gqa2-single",
        "rope-gqa2-ddp2",
    ]
    assert {spec.seed for spec in study.runs} == {5} and study.runs[0].train.steps == 7
    assert len(study.all_run_ids) == 12  # the rest is not forgotten


def test_the_run_id_covers_all_that_determines_the_result(write_study):
    path = write_study()

    def run_id(*settings, seeds=None):
        return load(path, settings, seeds).runs[0].run_id

    assert run_id() == run_id("launch.timeout_s=5") == run_id("study.name='other'")
    changed = [
        run_id("train.lr=0.5"),
        run_id("model.n_layer=1"),
        run_id("train.precision=bf16"),
        run_id(seeds=[1]),
        run_id("train.eval_every=3"),
        run_id("probes.eval_lengths=[8]"),
        run_id("probes.eval_lengths=[8, 32]"),
    ]
    before = load(path).runs[0].run_id
    (path.parent / "text.txt").write_text("Something else entirely.\n" * 40)
    assert len({before, run_id(), *changed}) == len(changed) + 2


def test_cross_seeds_adds_runs_and_keeps_the_others(write_study):
    plain = load(write_study())
    crossed = load(write_study(("seeds = [0, 1]", "seeds = [0, 1, 2]\ncross_seeds = true")))
    pairs = {(spec.seed, spec.order_seed) for spec in crossed.runs}
    assert pairs == {(i, j) for i in range(3) for j in range(3)} and len(crossed.runs) == 9 * 12
    assert (
        {spec.run_id for spec in plain.runs}
        <= {spec.run_id for spec in crossed.runs}
        == crossed.all_run_ids
    )
    assert {spec.settings_hash for spec in crossed.runs} == {plain.settings_hash}
    one = next(spec for spec in crossed.runs if (spec.seed, spec.order_seed) == (0, 2))
    assert one.run_id.startswith("learned-mha-single-s0d2-")
    assert [spec.seed for spec in crossed.runs] == [0] * 36 + [1] * 36 + [
        2
    ] * 36  # a block for each


def test_a_changed_variant_of_the_users_own_gets_another_run_id(write_study):
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
    assert first.run_id != load(path, where=["positional=ours"]).runs[0].run_id
    assert first.launch.variant_paths == [str(path.parent / "mine")]


def test_a_spec_survives_its_file(write_study):
    spec = load(write_study()).runs[-1]
    assert RunSpec.model_validate(json.loads(json.dumps(spec.model_dump()))) == spec
    assert spec.entry == "rope-sliding_window4-ddp2"


def test_expected_costs_come_from_the_model(write_study):
    by_id = {spec.entry: spec.expected for spec in load(write_study(), ["model.n_layer=1"]).runs}
    C, V, T = 32, 256, 16
    mha = V * C + T * C + (4 * C + 3 * C * C + 3 * C + C * C + C + 8 * C * C + 5 * C) + 2 * C
    assert by_id["learned-mha-single"].parameters == mha
    assert by_id["learned-gqa2-single"].parameters == mha - (
        C * C + C
    )  # half of the keys and values
    assert by_id["rope-mha-single"].parameters == mha - T * C
    flops = 3 * (2 * (12 * C * C + V * C) + 4 * C * (T + 1) / 2)
    assert by_id["learned-mha-single"].flops_per_token == flops
    assert by_id["learned-sliding_window4-single"].flops_per_token == flops - 3 * 4 * C * (
        (T + 1) / 2 - (4 - 12 / 32)
    )
    assert (
        by_id["learned-mha-ddp2"].memory_bytes < by_id["learned-mha-single"].memory_bytes
    )  # half of the sequences
