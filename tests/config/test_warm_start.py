"""Without these, a study could start from an incompatible checkpoint.

Runs from different checkpoints could also share a run id.
"""

import pytest

from harness.config import load
from harness.errors import UserError
from harness.launch.placement import randomize_within_seed
from harness.model.builder import ModelBuilder
from harness.model.initialization import init_parameters
from harness.model.weights import GPT2, Weights, save_weights
from variants.base import ModelShape

FROM_RUN = """
[init]
from_run = { attention = "mha", train = { steps = 9 } }
"""
GQA = '{ variant = "gqa", n_kv_head = 2 }'


def save_checkpoint(folder, seed=0, data_steps=0, **shape):
    shape = ModelShape(
        **{"n_layer": 2, "n_head": 4, "n_embd": 32, "seq_len": 16, "vocab_size": 256} | shape
    )
    model = ModelBuilder(shape, GPT2, []).model().to_empty(device="cpu")
    init_parameters(model, seed)
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    save_weights(Weights(shape, GPT2, tensors, {}, data_steps=data_steps), folder)
    return folder


def from_path(folder="start"):
    return f'\n[init]\nfrom_checkpoint = "{folder}"\n'


def refusal(*arguments, **options):
    with pytest.raises(UserError) as raised:
        load(*arguments, **options)
    return str(raised.value)


def test_every_entry_runs_after_the_source_of_its_seed(write_study):
    study = load(write_study(more=FROM_RUN))
    sources = {run.seed: run for run in study.runs if run.entry.startswith("start-")}
    others = [run for run in study.runs if run not in sources.values()]
    assert len(others) == 24 and sources.keys() == {0, 1}
    for run in others:
        assert run.init.run_id == sources[run.seed].run_id
        assert run.settings_hash == study.settings_hash
    for run in sources.values():
        assert (
            run.init is None and run.train.steps == 9 and run.settings_hash != study.settings_hash
        )
        assert run.launch.keep_checkpoints == "weights"
    assert {run.run_id for run in study.runs} == study.all_run_ids
    for _ in range(20):
        order = [run.run_id for run in randomize_within_seed(study.runs)]
        for run in others:
            assert order.index(run.init.run_id) < order.index(run.run_id)


def test_the_data_order_continues_after_the_source(write_study, tmp_path):
    """Otherwise a run sees all batches of its source again, and the second time they are easier."""
    study = load(write_study(more=FROM_RUN))
    for run in study.runs:
        assert run.data_offset_steps == (9 if run.init else 0)
    save_checkpoint(tmp_path / "start", data_steps=23)
    assert {run.data_offset_steps for run in load(write_study(more=from_path())).runs} == {23}
    assert {run.data_offset_steps for run in load(write_study()).runs} == {0}


def test_the_data_order_is_part_of_the_run_id(write_study, tmp_path):
    save_checkpoint(tmp_path / "start", data_steps=23)
    save_checkpoint(tmp_path / "other", data_steps=24)
    ids = [load(write_study(more=from_path(name))).all_run_ids for name in ("start", "other")]
    assert not ids[0] & ids[1]


def test_a_selection_includes_its_source_and_keeps_its_weights(write_study):
    path = write_study(more=FROM_RUN + '[launch]\nkeep_checkpoints = "none"\n')
    study = load(path, seeds=[1], where=["attention=gqa2"])
    assert [run.entry.startswith("start-") for run in study.runs] == [True] + [False] * 4
    assert [run.launch.keep_checkpoints for run in study.runs] == ["weights"] + ["none"] * 4


def test_the_initial_weights_are_part_of_the_run_id(write_study, tmp_path):
    """Otherwise a run from other weights would count as done."""

    def ids(more):
        return {run.run_id for run in load(write_study(more=more)).runs}

    save_checkpoint(tmp_path / "start")
    save_checkpoint(tmp_path / "copy")
    save_checkpoint(tmp_path / "other", seed=1)
    fresh = ids("")
    start = ids(from_path())
    assert len(start) == 24 and not start & fresh
    assert ids(from_path("copy")) == start
    assert not ids(from_path("other")) & start
    assert not ids(FROM_RUN) & ids(FROM_RUN.replace("steps = 9", "steps = 8"))
    assert not ids(FROM_RUN) & fresh


def test_how_heads_are_pooled_is_part_of_the_id(write_study, tmp_path):
    save_checkpoint(tmp_path / "start")
    ids = {}
    for pooling in ("mean", "first", "random"):
        gqa = GQA[:-1] + f', kv_pooling = "{pooling}", label = "gqa2" }}'
        ids[pooling] = load(write_study((GQA, gqa), more=from_path())).all_run_ids
    assert len(ids["mean"] - ids["first"]) == 8
    assert len(ids["first"] - ids["random"]) == 8
    assert len(ids["random"] - ids["mean"]) == 8


def test_a_longer_or_unneeded_position_table_is_accepted(write_study, tmp_path):
    save_checkpoint(tmp_path / "start", seq_len=64)
    assert load(write_study(more=from_path())).runs


BAD = {
    "no folder": ({}, "nowhere", "init.from_checkpoint", "no such folder"),
    "width": ({"n_embd": 64}, "start", "n_embd = 64 in", "32 here"),
    "layers": ({"n_layer": 3}, "start", "n_layer = 3 in", "2 here"),
    "heads": ({"n_head": 2}, "start", "n_head = 2 in", "4 here"),
    "vocabulary": ({"vocab_size": 50257}, "start", "vocab_size = 50257 in", "256 here"),
    "positions": (
        {"seq_len": 8},
        "start",
        "learned-mha: positional.wpe.weight: (8, 32) there, (16, 32) here",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_an_incompatible_checkpoint_is_refused_with_both_sizes(name, write_study, tmp_path):
    shape, folder, *expected = BAD[name]
    save_checkpoint(tmp_path / "start", **shape)
    message = refusal(write_study(more=from_path(folder)))
    for text in expected:
        assert text in message


def test_heads_that_do_not_group_are_refused(write_study, tmp_path):
    """The conversion of two key-value heads to four is not defined."""
    gqa = FROM_RUN.replace('attention = "mha"', f"attention = {GQA}")
    message = refusal(write_study((GQA, '{ variant = "gqa", n_kv_head = 4 }'), more=gqa))
    assert "h.0.attn.c_attn: 2 key-value heads there do not group into 4 here" in message
    assert "learned-mha: h.0.attn.c_attn.weight: (64, 32) there, (96, 32) here" in message


WRONG = {
    "no table": ("from_run = 3", "init.from_run: 3: input should be a valid dictionary"),
    "both": (
        'from_checkpoint = "start"\nfrom_run = {}',
        "must have either `from_checkpoint` or `from_run`",
    ),
    "unknown axis": (
        'from_run = { atention = "mha" }',
        "init.from_run.atention: no such axis; did you mean",
    ),
    "unknown variant": (
        'from_run = { attention = "mhaa" }',
        "init.from_run.attention: 'mhaa': no such",
    ),
    "unknown setting": (
        "from_run = { train = { stps = 3 } }",
        "init.from_run.train.stps: unknown key; did you",
    ),
    "wrong setting": (
        "from_run = { train = { steps = 0 } }",
        "init.from_run.train.steps: 0: input should be",
    ),
    "no training table": (
        "from_run = { train = 3 }",
        "init.from_run.train: 3: must be a table",
    ),
    "tokens": (
        "from_run = { train = { tokens_per_step = 100 } }",
        "init.from_run.train.tokens_per_step: 100 is not a multiple",
    ),
    "empty": ("", "init: {}: must have either `from_checkpoint` or `from_run`"),
    "former key": (
        'from = "start"',
        "init.from: unknown key; did you mean 'from_checkpoint' or 'from_run'? "
        "allowed: from_checkpoint, from_run",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_init_names_its_place(name, write_study, tmp_path):
    save_checkpoint(tmp_path / "start")
    line, expected = WRONG[name]
    assert expected in refusal(write_study(more=f"\n[init]\n{line}\n"))


def test_a_conversion_without_a_checkpoint_is_refused(write_study):
    """It would be ignored, and two equal entries would seem to differ."""
    message = refusal(write_study((GQA, GQA[:-1] + ', kv_pooling = "first" }')))
    assert (
        "axes.attention: gqa_n_kv_head2_kv_poolingfirst: `kv_pooling` controls how a checkpoint is "
        "converted, and the study has no [init]" in message
    )


@pytest.mark.parametrize("field", ["tie_embeddings", "bias"])
def test_weights_without_a_counterpart_are_refused(write_study, tmp_path, field):
    """Biases or an output projection would be dropped, or start fresh, without a word."""
    save_checkpoint(tmp_path / "with")
    save_checkpoint(tmp_path / "without", **{field: False})
    setting = ("seq_len = 16", f"seq_len = 16\n{field} = false")
    assert load(write_study(setting, more=from_path("without"))).runs
    message = f"{field} = True in {tmp_path / 'with'}, False here"
    assert message in refusal(write_study(setting, more=from_path("with")))
    message = f"{field} = False in {tmp_path / 'without'}, True here"
    assert message in refusal(write_study(more=from_path("without")))


@pytest.mark.parametrize(
    ("field", "here", "there"),
    [("tie_embeddings", "true", "false"), ("n_head", "4", "2"), ("n_layer", "2", "1")],
)
def test_a_run_of_another_shape_is_no_source(write_study, field, here, there):
    """Its output projection or layers would be dropped or start fresh, its heads be mixed."""
    axis = f'\n"model.{field}" = [{there}, {here}]\n'
    from_run = f'\n[init]\nfrom_run = {{ "model.{field}" = {there} }}\n'
    message = refusal(write_study(more=axis + from_run))
    stated = [value.capitalize() for value in (there, here)]
    assert f"init.from_run: {field} = {stated[0]} in the source run, {stated[1]} here" in message


def test_pooled_heads_need_no_bias(write_study, tmp_path):
    save_checkpoint(tmp_path / "start", bias=False)
    setting = ("seq_len = 16", "seq_len = 16\nbias = false")
    assert load(write_study(setting, more=from_path())).runs
