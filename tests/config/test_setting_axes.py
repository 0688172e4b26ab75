"""Without these, a run could train with other settings than its labels and its table say."""

import json

import pytest

from harness.config import load
from harness.errors import UserError
from harness.results.records import RunSpec

LR = '"train.lr" = [1e-3, 3e-3]\n'
SIZE = """
size = [
    { label = "S", "model.n_layer" = 1, "model.n_embd" = 16, "train.steps" = 3 },
    { label = "M", "model.n_layer" = 2, "model.n_embd" = 32, "train.steps" = 5 },
]
"""
VARIANTS = """positional = ["learned", "rope"]
attention = ["mha", { variant = "gqa", n_kv_head = 2 }, { variant = "sliding_window", window = 4 }]
parallelism = ["single", { variant = "ddp", nproc = 2 }]
"""


def hashes(study):
    return {spec.run_id.rsplit("-", 1)[1] for spec in study.runs}


@pytest.fixture
def write(write_study):
    """Return a function that writes a study of two attentions with these axes of settings."""

    def write_axes(*axes, more="", attention='"mha", "mqa"'):
        small = f"attention = [{attention}]\n"
        return write_study((VARIANTS, small), more="".join(axes) + more)

    return write_axes


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def problems(path, *args, **kwargs):
    with pytest.raises(UserError) as error:
        load(path, *args, **kwargs)
    messages = [str(problem) for problem in error.value.problems]
    assert len(messages) == len(set(messages))
    return [message.removeprefix(f"{path}: ") for message in messages]


def test_levels_combine_with_variants_in_product(write):
    study = load(write(LR, SIZE))
    assert len(study.runs) == 2 * 2 * 2 * 2
    for spec in study.runs:
        size = spec.axes["size"]
        assert spec.entry.endswith(f"-{spec.axes['train.lr'].label}-{size.label}")
        assert spec.axes["train.lr"].options == {"train.lr": spec.train.lr}
        shape = (spec.model.n_layer, spec.model.n_embd, spec.train.steps)
        assert shape == ((1, 16, 3) if size.label == "S" else (2, 32, 5))
        assert (spec.expected.parameters < 10_000) == (size.label == "S")
        assert spec.baseline["train.lr"] == "lr0.001" and spec.baseline["size"] == "S"
        assert spec.axes["size"].is_setting and not spec.axes["attention"].is_setting
        assert RunSpec.model_validate(json.loads(json.dumps(spec.model_dump()))) == spec
    assert len({spec.run_id for spec in study.runs}) == len(study.runs)
    assert len(hashes(study)) == len(study.runs)
    assert {spec.settings_hash for spec in study.runs} == {study.settings_hash}


def test_a_level_of_the_sections_value_has_the_content_of_the_plain_study(write):
    plain = load(write())
    lr = load(write(LR), where=["train.lr=0.001"])
    assert hashes(lr) == hashes(plain)
    assert not hashes(load(write(LR), where=["train.lr=0.003"])) & hashes(plain)
    assert lr.settings_hash != plain.settings_hash


def test_runs_share_a_table_whatever_levels_their_axes_have(write):
    wider = LR.replace("3e-3", "3e-3, 1e-2")
    assert load(write(wider)).settings_hash == load(write(LR)).settings_hash
    assert load(write(LR), ["train.beta1=0.5"]).settings_hash != load(write(LR)).settings_hash


def test_the_section_may_leave_out_what_an_axis_sets(write):
    path = write(SIZE)
    with_section = load(path).all_run_ids
    change(change(path, "n_layer = 2\nn_head", "n_head"), "n_embd = 32\nseq", "seq")
    assert load(path).all_run_ids == with_section


@pytest.mark.parametrize(
    ("condition", "lrs", "n_runs"),
    [
        ("train.lr=0.003", {3e-3}, 4),
        ("train.lr=lr0.003", {3e-3}, 4),
        ("train.lr=3e-3,1e-3", {1e-3, 3e-3}, 8),
        ("size=S", {1e-3, 3e-3}, 4),
    ],
)
def test_a_level_is_selected_by_its_label_or_value(write, condition, lrs, n_runs):
    study = load(write(LR, SIZE), where=[condition], seeds=[0])
    assert len(study.runs) == n_runs and {spec.train.lr for spec in study.runs} == lrs
    assert len(study.all_run_ids) == 8


def test_rules_and_the_baseline_name_levels(write):
    rules = """
[[exclude]]
size = "M"
"train.lr" = 0.003
reason = "slow"
[[include]]
attention = "mqa"
size = "M"
"train.lr" = 0.1
"""
    path = write(LR, SIZE, more=rules)
    change(path, "baseline = {", 'baseline = { size = "M", "train.lr" = 3e-3,')
    study = load(path, seeds=[0])
    assert study.runs[0].baseline["size"] == "M"
    assert study.runs[0].baseline["train.lr"] == "lr0.003"
    runs = {(s.axes["attention"].label, s.axes["size"].label, s.train.lr) for s in study.runs}
    product = {(a, "S", lr) for a in ("mha", "mqa") for lr in (1e-3, 3e-3)}
    assert runs == product | {("mha", "M", 1e-3), ("mqa", "M", 1e-3), ("mqa", "M", 0.1)}


def test_a_condition_names_a_level_that_a_rule_adds(write):
    path = write(LR, more='[[include]]\n"train.lr" = 0.1\nattention = "mla"\n')
    for where in (["train.lr=0.1"], ["attention=mla"]):
        (entry,) = {spec.entry for spec in load(path, where=where).runs}
        assert entry == "learned-mla-single-lr0.1"


@pytest.mark.parametrize("axis", ['"train.min_lr" = [1e-4, 0.0]', '"model.bias" = [false, true]'])
def test_a_setting_that_the_section_omits_has_its_default_in_the_baseline(write, axis):
    baseline = load(write(axis + "\n")).runs[0].baseline
    assert set(baseline.values()) & {"min_lr0", "biasTrue"}


@pytest.mark.parametrize(("lr", "baseline"), [("3e-3", "lr0.003"), ("5e-3", "lr0.001")])
def test_the_baseline_is_the_sections_value_else_the_first(write, lr, baseline):
    path = change(write(LR), "steps = 4", f"steps = 4\nlr = {lr}")
    assert load(path).runs[0].baseline["train.lr"] == baseline


def test_dotted_keys_need_no_quotes(write):
    path = write(LR, SIZE)
    quoted = load(path).runs
    path.write_text(path.read_text().replace('"train.', "train.").replace('"model.', "model."))
    for axis in ("train.lr", "train.steps", "model.n_embd", "model.n_layer"):
        change(path, f'{axis}"', axis)
    unquoted = load(path).runs
    assert {spec.run_id.rsplit("-", 1)[1] for spec in unquoted} == {
        spec.run_id.rsplit("-", 1)[1] for spec in quoted
    }
    replaced = load(write(LR), ["axes.train.lr=[0.5, 0.25]"])
    assert {spec.train.lr for spec in replaced.runs} == {0.5, 0.25}
    twice = change(write(LR), "[axes]", "[axes]\ntrain.lr = [0.1, 0.2]")
    assert problems(twice)[0].startswith('axes."train.lr": stated twice')


def test_each_corpus_is_prepared_once_and_its_hash_kept_apart(write, monkeypatch):
    path = write('"data.corpus" = ["text.txt", "other/text2.txt"]\n', LR)
    (path.parent / "other").mkdir()
    (path.parent / "other/text2.txt").write_text("Whether 'tis nobler in the mind.\n" * 60)
    prepared = []
    from harness.config import matrix

    original = matrix.prepare
    monkeypatch.setattr(
        matrix, "prepare", lambda data, *args: prepared.append(data) or original(data, *args)
    )
    study = load(path)
    assert [data.corpus for data in prepared] == ["text.txt", "other/text2.txt"]
    by_corpus = {spec.data.corpus: spec for spec in study.runs}
    assert len({spec.data.sha256 for spec in by_corpus.values()}) == 2
    assert {spec.settings_hash for spec in study.runs} == {study.settings_hash}
    assert by_corpus["other/text2.txt"].axes["data.corpus"].label == "corpustext2.txt"
    assert len(hashes(study)) == len(study.runs)


def test_the_size_is_matched_within_each_size(write):
    path = write(SIZE, attention='"mha", { variant = "gqa", n_kv_head = 1 }')
    change(path, "seeds =", 'match_size = "parameters"\nseeds =')
    for label in ("S", "M"):
        runs = load(path, where=[f"size={label}"], seeds=[0]).runs
        base, matched = (spec.expected.parameters for spec in runs)
        assert abs(matched / base - 1) < 0.01
        assert runs[1].axes["mlp"].options["width"]


def test_a_source_run_starts_all_levels_that_fit(write):
    init = "\n[init]\nfrom_run = { train = { steps = 9 } }\n"
    study = load(write(LR, more=init), seeds=[0])
    source, *others = study.runs
    assert source.entry == "start-learned-mha-single-lr0.001" and source.train.steps == 9
    assert {spec.init.run_id for spec in others} == {source.run_id} and len(others) == 4
    chosen = init.replace("{ train", '{ "train.lr" = 3e-3, train')
    assert load(write(LR, more=chosen), seeds=[0]).runs[0].train.lr == 3e-3
    (message, *_) = problems(write(SIZE, more=init))
    assert message == "init.from_run: n_layer = 1 in the source run, 2 here (M)"


def test_options_are_checked_at_each_shape(write):
    heads = '"model.n_head" = [4, 2]\n'
    attention = '"mha", { variant = "gqa", n_kv_head = 4 }'
    expected = "axes.attention[1].n_kv_head: 4 does not divide n_head = 2; allowed: 1, 2"
    assert problems(write(heads, attention=attention)) == [expected]
    rule = '\n[[exclude]]\n"model.n_head" = 2\nattention = "gqa4"\nreason = "r"\n'
    assert len(load(write(heads, attention=attention, more=rule)).runs) == 3 * 2


def test_checks_of_a_level_name_the_level(write):
    steps = '"train.steps" = [4, 2]\n'
    path = change(write(steps), "steps = 4", "steps = 4\nwarmup_steps = 3")
    (message,) = problems(path)
    assert message.startswith('axes."train.steps"[1]: warmup_steps = 3: the warm-up would not end')
    assert problems(write('"train.tokens_per_step" = [128, 100]\n')) == [
        'axes."train.tokens_per_step"[1]: 100 is not a multiple of seq_len = 16; '
        "the nearest that do: 96, 112"
    ]
    size = SIZE.replace('"model.n_embd" = 16', '"model.n_embd" = 18')
    assert problems(write(size)) == [
        "axes.size[0].model.n_embd: n_head = 4 does not divide n_embd = 18; "
        "allowed: 1, 2, 3, 6, 9, 18"
    ]
    (message,) = problems(write('"data.corpus" = ["text.txt", "txet.txt"]\n'))
    assert message.startswith("axes.\"data.corpus\"[1]: 'txet.txt': no such file")


CASES = {
    "unknown key": (
        '"train.lrr" = [1, 2]\n',
        "axes.\"train.lrr\": no such setting; did you mean 'train.lr'? allowed: train.",
    ),
    "unknown section": (
        '"tran.lr" = [1, 2]\n',
        "axes.\"tran.lr\": no such setting; did you mean 'train.lr'?",
    ),
    "unknown key of a level": (
        SIZE.replace('"model.n_layer" = 1', '"model.n_layr" = 1'),
        "axes.size[0].model.n_layr: no such setting; did you mean 'model.n_layer'?",
    ),
    "key without its section": (
        SIZE.replace('"model.n_layer" = 1', "n_layer = 1"),
        "axes.size[0].n_layer: no such setting; did you mean 'model.n_layer'?",
    ),
    "wrong value": ('"train.lr" = [1e-3, -1]\n', 'axes."train.lr"[1]: -1: input should be'),
    "wrong type": ('"model.n_layer" = [1, 2.5]\n', 'axes."model.n_layer"[1]: 2.5: input should'),
    "wrong literal": (
        '"train.precision" = ["fp32", "fp16"]\n',
        "[1]: 'fp16': input",
    ),
    "wrong value in a table": (
        '"train.lr" = [1e-3, { value = 0, label = "zero" }]\n',
        'axes."train.lr"[1].value: 0: input should be greater than 0',
    ),
    "wrong value in a level": (
        SIZE.replace('"train.steps" = 5', '"train.steps" = 0'),
        "axes.size[1].train.steps: 0: input should be greater than or equal to 1",
    ),
    "table without a value": (
        '"train.lr" = [1e-3, { label = "zero" }]\n',
        "axes.\"train.lr\"[1]: {'label': 'zero'}: must be a value, or a table of `value`",
    ),
    "no label": (SIZE.replace('label = "S", ', ""), "axes.size[0]: has no `label`"),
    "invalid label": (SIZE.replace('"S"', '"a/b"'), "axes.size[0].label: 'a/b': must be up to"),
    "label of a value": (
        '"train.lr" = [1e-3, { value = 1e-2, label = "" }]\n',
        "axes.\"train.lr\"[1].label: '': must be",
    ),
    "two labels": (SIZE.replace('"M"', '"S"'), "axes.size: two different choices are labelled 'S'"),
    "labels of case": (SIZE.replace('"M"', '"s"'), "axes.size: the labels 'S' and 's' differ in"),
    "two equal values": (
        '"train.lr" = [1e-3, 0.001]\n',
        "axes.\"train.lr\": two different choices are labelled 'lr0.001'",
    ),
    "one level": ('"train.lr" = [1e-3]\n', 'axes."train.lr": has one level'),
    "one named level": (
        'size = [{ label = "S", "train.steps" = 3 }]\n',
        "axes.size: has one level",
    ),
    "two axes": (
        SIZE + '"train.steps" = [3, 5]\n',
        'axes."train.steps": varies train.steps, which the axis size varies too',
    ),
    "different keys": (
        SIZE.replace(', "train.steps" = 5', ""),
        "axes.size: the level M does not set train.steps, and other levels do",
    ),
    "mixed elements": (
        SIZE.replace("size = [", 'size = ["XS", '),
        "axes.size[0]: 'XS': must be a table of settings",
    ),
    "names of a column": (SIZE.replace("size =", "seed ="), "axes.seed: the name of a key or of a"),
    "name of a section": (SIZE.replace("size =", "model ="), "axes.model: the name of a key"),
    "no name": (SIZE.replace("size =", '"my size" ='), 'axes."my size": no name for an axis'),
    "variants": ('sise = ["S", "M"]\n', "axes.sise: no such axis; "),
    "rule": (
        LR + '[[exclude]]\n"train.lr" = 0.002\nreason = "r"\n',
        'exclude[0]."train.lr": 0.002 matches nothing; ',
    ),
    "rule's axis": (
        LR + '[[exclude]]\n"train.lrr" = 0.002\nreason = "r"\n',
        "exclude[0].\"train.lrr\": no such axis; did you mean 'train.lr'?",
    ),
    "include": (SIZE + '[[include]]\nsize = "L"\n', "include[0].size: 'L' matches nothing"),
    "included keys": (
        SIZE + '[[include]]\nsize = { label = "L", "model.n_layer" = 3 }\n',
        "include[0].size: the level L and the axis's other levels do not set the same: model.n_e",
    ),
    "included label": (
        LR + '[[include]]\n"train.lr" = { value = 0.1, label = "lr0.001" }\n',
        "include[0].\"train.lr\": two different choices are labelled 'lr0.001'",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_invalid_level_is_named(write, case):
    axes, expected = CASES[case]
    (message,) = problems(write(axes))
    assert expected in message


def test_all_problems_of_settings_are_one_list(write):
    axes = ('"train.lr" = [0, 1]\n', SIZE.replace("n_layer", "n_layr"), '"train.beta1" = [0.9]\n')
    path = change(write(*axes, attention='"mha", "mqaa"'), "steps = 4", "steps = 4\nbeta2 = 2")
    change(path, "seeds =", 'compare = ["atention"]\nseeds =')
    assert len(problems(path)) == 1  # the schema first
    change(path, "beta2 = 2", "min_lr = 5")
    found = problems(path)
    for text in (
        '"train.lr"[0]',
        "size[0].model.n_layr",
        "size[1].model.n_layr",
        '"train.beta1"',
        "attention[1]",
        "compare[0]",
        "min_lr = 5 is above lr = 1",
    ):
        assert any(text in message for message in found), (text, found)


def test_a_setting_is_fixed_or_varied(write):
    for setting in ("train.lr=0.1", "train.steps=3"):
        key = setting.partition("=")[0]
        (message,) = problems(write(LR, SIZE), [setting])
        assert f"varies {key}, which --set {key} fixes; select levels by --where" in message
    assert load(write(LR, SIZE), ["train.beta1=0.5"]).runs[0].train.beta1 == 0.5


def test_too_many_entries_are_refused_at_once(write):
    values = ", ".join(str(i / 1000) for i in range(1, 400))
    axes = [f'"train.{key}" = [{values}]\n' for key in ("lr", "beta1", "beta2")]
    assert any("their product has" in message for message in problems(write(*axes)))
