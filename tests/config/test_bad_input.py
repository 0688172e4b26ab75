"""An invalid study starts no process: each error names file, key path, value and allowed values."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from harness.cli.app import main
from harness.config import load
from harness.errors import UserError

RULE = "\n[[exclude]]\n"

CASES = {
    "unknown key": (
        ("steps = 4", "stpes = 4"),
        "train.stpes: unknown key; did you mean 'steps'?",
        "train.steps: missing",
    ),
    "unknown section": (
        ("[train]", "[trian]\nx = 1\n[train]"),
        "trian: unknown key; did you mean 'train'?",
    ),
    "wrong type": (
        ("steps = 4", 'steps = "4"'),
        "train.steps: '4': input should be a valid integer",
    ),
    "out of range": (
        ("steps = 4", "steps = 0"),
        "train.steps: 0: input should be greater than or equal to 1",
    ),
    "unknown variant": (
        ('"rope"]', '"rpoe"]'),
        "axes.positional[1]: 'rpoe': no such positional variant; did you mean 'rope'?",
    ),
    "unknown axis": (
        ("positional = [", "postional = ["),
        "axes.postional: no such axis; did you mean 'positional'?",
    ),
    "empty axis": (
        ('positional = ["learned", "rope"]', "positional = []"),
        "axes.positional: []: list should have at least 1",
    ),
    "no seeds": (("seeds = [0, 1]", "seeds = []"), "study.seeds: []: list should have at least 1"),
    "crossing": (
        ("seeds = [0, 1]", 'seeds = [0, 1]\ncross_seeds = ["init", "data"]'),
        "study.cross_seeds: ['init', 'data']: input should be a valid boolean",
    ),
    **{
        f"superiority within the margin, {metric}": (
            (
                "seeds = [0, 1]",
                f"seeds = [0, 1]\nequivalence_margin = {{ {metric} = 0.02 }}\n"
                f"superiority = {{ {metric} = 0.005 }}",
            ),
            f"study.superiority: {{'{metric}': 0.005}}: {metric} must be at least its "
            "`equivalence_margin`, 0.02",
        )
        for metric in ("val_loss", "tokens_per_s", "peak_memory")
    },
    "heads and width": (
        ("n_head = 4", "n_head = 5"),
        "model.n_head: 5 does not divide n_embd = 32; allowed: 1, 2, 4, 8, 16, 32",
        "n_kv_head: 2 does not divide n_head = 5",
    ),
    "groups": (
        ("n_kv_head = 2", "n_kv_head = 3"),
        "axes.attention[1].n_kv_head: 3 does not divide n_head = 4; allowed: 1, 2, 4",
    ),
    "no groups": (
        ("n_kv_head = 2", "n_kv_head = 0"),
        "axes.attention[1].n_kv_head: 0: must be at least 1",
    ),
    "window": (("window = 4", "window = 0"), "axes.attention[2].window: 0: must be at least 1"),
    "unknown option": (
        ("window = 4", "windw = 4"),
        "attention[2].windw: unknown key; did you mean 'window'?",
        "window: missing",
    ),
    "option's type": (
        ("window = 4", "window = 4.5"),
        "axes.attention[2].window: 4.5: input should be a valid integer",
    ),
    "processes": (("nproc = 2", "nproc = 0"), "axes.parallelism[1].nproc: 0: must be at least 1"),
    "tokens": (
        ("per_step = 128", "per_step = 100"),
        "100 is not a multiple of seq_len = 16; the nearest that do: 96, 112",
    ),
    "tokens and ranks": (
        ("nproc = 2", "nproc = 3"),
        "do not divide over 3 ranks of ddp3; the nearest that do: 96, 144",
    ),
    "rising rate": (
        ("steps = 4", "steps = 4\nlr = 1e-4\nmin_lr = 1e-3"),
        "train.min_lr: 0.001 is above lr = 0.0001, so that the rate would rise",
    ),
    "warm-up": (
        ("steps = 4", "steps = 4\nwarmup_steps = 5"),
        "train.warmup_steps: 5: the warm-up would not end within the run; allowed: at most steps",
    ),
    "decay": (
        ("steps = 4", 'steps = 10\nwarmup_steps = 6\nschedule = "wsd"\ndecay_fraction = 0.5'),
        "train.decay_fraction: 0.5: the decay over 5 of 10 steps would begin within the warm-up; "
        "allowed: at most 0.4",
    ),
    "schedule": (
        ("steps = 4", 'steps = 4\nschedule = "cosin"'),
        "train.schedule: 'cosin': input should be 'cosine', 'linear', 'wsd' or 'constant'",
    ),
    "precision": (
        ("steps = 4", 'steps = 4\nprecision = "fp16"'),
        "train.precision: 'fp16': input should be 'fp32', 'bf16' or 'fp8'",
    ),
    "recomputed modules": (
        ("steps = 4", 'steps = 4\nrecompute = "mlp"'),
        "train.recompute: 'mlp': input should be 'none', 'block' or 'attention'",
    ),
    "mixture's key": (
        ('"text.txt"', '[{ path = "text.txt", weight = 1, wieght = 1 }]'),
        "data.corpus[0].wieght: unknown key; did you mean 'weight'?",
    ),
    "mixture's weight": (
        ('"text.txt"', '[{ path = "text.txt", weight = 0 }]'),
        "data.corpus[0].weight: 0: input should be greater than 0",
    ),
    "mixture's corpus": (
        ('"text.txt"', '[{ path = "text.txt", weight = 1 }, { path = "txet.txt", weight = 1 }]'),
        "data.corpus[1].path: 'txet.txt': no such file",
    ),
    "empty mixture": (('"text.txt"', "[]"), "data.corpus: []: list should have at least 1 item"),
    "token type": (
        ('"text.txt"', '"text.txt"\ntoken_dtype = "int64"'),
        "data.token_dtype: 'int64': input should be 'uint16' or 'uint32'",
    ),
    "optimizer": (
        ("[axes]", '[axes]\noptimizer = ["adam"]'),
        "axes.optimizer[0]: 'adam': no such optimizer variant; did you mean 'adamw'?",
    ),
    "optimizer's option": (
        ("[axes]", '[axes]\noptimizer = [{ variant = "muon", lr = 0.0 }]'),
        "axes.optimizer[0].lr: 0.0: input should be greater than 0",
    ),
    "optimizer's options": (
        ("[axes]", '[axes]\noptimizer = [{ variant = "sgd", momentum = 0.0, nesterov = true }]'),
        "axes.optimizer[0].nesterov: true: needs a momentum above 0",
    ),
    "decay without its schedule": (
        ("steps = 4", "steps = 4\ndecay_fraction = 0.5"),
        "train.decay_fraction: 0.5: only the schedule 'wsd' has it, and the schedule is 'cosine'",
    ),
    "axis of decays without their schedule": (
        ("[axes]", '[axes]\n"train.decay_fraction" = [0.2, 0.5]'),
        "axes.\"train.decay_fraction\"[1]: 0.5: only the schedule 'wsd' has it",
    ),
    "optimizer's own rate on a named axis": (
        (
            "[axes]",
            '[axes]\noptimizer = [{ variant = "lion", lr = 0.1 }]\nrate = [{ label = "low", '
            '"train.lr" = 1.0 }, { label = "high", "train.lr" = 2.0 }]',
        ),
        "axes.rate: the optimizer lion0.1 has lr = 0.1 of its own, which rate does not change; "
        "remove the option, or exclude the combination",
    ),
    "optimizer's own rate": (
        ("[axes]", '[axes]\noptimizer = [{ variant = "lion", lr = 0.1 }]\n"train.lr" = [1.0, 2.0]'),
        'axes."train.lr": the optimizer lion0.1 has lr = 0.1 of its own, which train.lr does not '
        "change; remove the option, or exclude the combination",
    ),
    "sgd without betas": (
        ("[axes]", '[axes]\noptimizer = ["sgd"]\n"train.beta1" = [0.8, 0.9]'),
        'axes."train.beta1": the optimizer sgd does not read beta1; use another optimizer, or '
        "exclude the combination",
    ),
    "adafactor without betas": (
        ("[axes]", '[axes]\noptimizer = ["adafactor"]\n"train.beta2" = [0.8, 0.9]'),
        'axes."train.beta2": the optimizer adafactor does not read beta2; use another optimizer',
    ),
    "varied decay within the warm-up": (
        (
            "[axes]",
            'schedule = "wsd"\nwarmup_steps = 2\n[axes]\n"train.decay_fraction" = [0.2, 0.9]',
        ),
        'axes."train.decay_fraction"[1]: 0.9: the decay over 4 of 4 steps would begin within',
    ),
    "parameters": (
        ("n_embd = 32", "n_embd = 1048576"),
        "model.n_embd: 1048576 with n_layer = 2 gives 2.64e+13 parameters; allowed: at most 1e+12",
    ),
    "micro-batch": (
        ("steps = 4", "steps = 4\nmicro_batch_size = 3"),
        "divide the 8 sequences of a rank; the nearest that do: 2, 4 (single)",
        "the 4 sequences of a rank",
    ),
    "no such corpus": (("text.txt", "txet.txt"), "data.corpus: 'txet.txt': no such file"),
    "tokenizer": (
        ("[train]", 'tokenizer = "gtp2"\n[train]'),
        "data.tokenizer: 'gtp2': no such tokenizer; did you mean 'gpt2'?",
    ),
    "baseline": (
        ('attention = "mha", p', 'attention = "mqa", p'),
        "study.baseline.attention: 'mqa' matches nothing",
    ),
    "element": (
        ('{ variant = "gqa", n_kv_head = 2 }', "{ n_kv_head = 2 }"),
        "axes.attention[1]: must be a name or a table with",
    ),
    "label": (
        ('variant = "gqa"', 'variant = "gqa", label = "a/b"'),
        "axes.attention[1].label: 'a/b': must be",
    ),
    "name": (('name = "s"', 'name = "../s"'), "study.name: '../s'"),
    "no lengths": (
        ("[axes]", "[probes]\neval_lengths = []\n[axes]"),
        "probes.eval_lengths: []: list should have at least 1",
    ),
    "length": (
        ("[axes]", "[probes]\neval_lengths = [8, 0]\n[axes]"),
        "probes.eval_lengths[1]: 0: input should be greater than or equal to 1",
    ),
    "no tasks": (
        ("[axes]", "[probes]\nlm_eval = { tasks = [] }\n[axes]"),
        "probes.lm_eval.tasks: []: list should have at least 1",
    ),
    "length's type": (
        ("[axes]", "[probes]\neval_lengths = 8\n[axes]"),
        "probes.eval_lengths: 8: input should be a valid list",
    ),
}
RULES = {
    "no reason": (
        RULE + 'attention = "mha"\n',
        "exclude[0].reason: None: an exclusion needs a reason",
    ),
    "matches nothing": (
        RULE + 'attention = "mqa"\nreason = "r"\n',
        "exclude[0].attention: 'mqa' matches nothing; did you mean 'mha'?",
    ),
    "axis": (
        RULE + 'atention = "mha"\nreason = "r"\n',
        "exclude[0].atention: no such axis; did you mean 'attention'?",
    ),
    "only a reason": (RULE + 'reason = "r"\n', "exclude[0]: matches no entry"),
    "everything": (
        RULE + 'positional = ["learned", "rope"]\nreason = "r"\n',
        "all entries are excluded",
    ),
    "include": (
        '\n[[include]]\nattention = "mhaa"\n',
        "include[0].attention: 'mhaa': no such attention variant; did you mean 'mha'?",
    ),
}


def problems(path, *args, **kwargs):
    with pytest.raises(UserError) as error:
        load(path, *args, **kwargs)
    messages = [str(problem) for problem in error.value.problems]
    assert len(messages) == len(set(messages))
    return messages


@pytest.mark.parametrize("case", CASES)
def test_an_error_names_its_place_and_remedy(write_study, case):
    replacement, *expected = CASES[case]
    path = write_study(replacement)
    messages = problems(path)
    assert len(messages) == len(expected), messages
    for text in expected:
        assert any(text in message for message in messages), (text, messages)
    assert all(message.startswith(str(path)) for message in messages)


@pytest.mark.parametrize("case", RULES)
def test_an_invalid_rule_is_named(write_study, case):
    rule, expected = RULES[case]
    (message,) = problems(write_study(more=rule))
    assert expected in message


def test_a_text_shorter_than_a_sequence_is_refused(write_study):
    path = write_study(("seq_len = 16", "seq_len = 128"), ("per_step = 128", "per_step = 256"))
    (path.parent / "text.txt").write_text("x" * 1200)  # 1080 to train, 120 to validate
    assert "its validation part has 120 tokens, a sequence needs 129" in problems(path)[0]


def test_an_eval_length_beyond_the_validation_part_is_refused(write_study):
    text = "To be, or not to be, that is the question.\n" * 40  # the last tenth validates
    n_tokens = len(text) - len(text) * 9 // 10
    path = write_study(
        more=f"\n[probes]\neval_lengths = [8, {n_tokens - 1}, {n_tokens}, {n_tokens}]\n"
    )
    (message,) = problems(path)
    needed = f"probes.eval_lengths: {n_tokens}: such a sequence needs {n_tokens + 1} tokens"
    assert needed in message
    assert f"has {n_tokens}; allowed: at most {n_tokens - 1}" in message
    path.write_text(path.read_text().replace(f" {n_tokens}, {n_tokens}]", "]"))
    assert load(path).runs[0].probes.eval_lengths == [8, n_tokens - 1]


def test_tasks_of_lm_eval_are_refused_before_the_start(write_study, monkeypatch, capsys, tmp_path):
    """After hours of training, a misspelled task would be found, or a missing package."""
    path = write_study(more='\n[probes]\nlm_eval = { tasks = ["helaswag", "arc", "a.yaml"] }\n')
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)  # as if it were not installed
    assert "probes.lm_eval: needs the package lm-eval: pip install" in problems(path)[0]
    manager = SimpleNamespace(all_tasks=["arc", "hellaswag"])
    module = SimpleNamespace(TaskManager=lambda include_defaults: manager)
    monkeypatch.setitem(sys.modules, "lm_eval", SimpleNamespace(tasks=module))
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", module)
    unknown, absent = problems(path)
    assert "probes.lm_eval.tasks: 'helaswag': no such task; did you mean hellaswag?" in unknown
    assert "probes.lm_eval.tasks: 'a.yaml': no such file" in absent
    with pytest.raises(SystemExit) as ended:
        main(["run", str(path), "--dry-run", "--results", str(tmp_path / "results")])
    assert ended.value.code == 2 and unknown in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
    path.write_text(path.read_text().replace('"helaswag", "arc", "a.yaml"', '"arc"'))
    assert load(path).runs[0].probes.lm_eval.tasks == ["arc"]


def test_text_that_is_not_utf8_is_refused_with_the_place(write_study):
    path = write_study()
    (path.parent / "text.txt").write_bytes(b"abc\xff" * 1000)
    (message,) = problems(path)
    assert "data.corpus: " in message and "text.txt: not UTF-8 at byte 3" in message


def test_all_errors_of_a_file_are_reported_at_once(write_study):
    path = write_study(
        ("n_head = 4", "n_head = 5"),
        ('"rope"]', '"rpoe"]'),
        ("window = 4", "window = 0"),
        ("text.txt", "no"),
    )
    assert len(problems(path)) == 5


@pytest.mark.parametrize("text", ["x = " + "[" * 100_000, f"x{'.x' * 100} = 1", "x = [[{y = " * 30])
def test_a_deeply_nested_file_is_refused(write_study, text):
    path = write_study()
    path.write_text(text)
    (message,) = problems(path)
    assert "nested too deeply" in message or "not TOML" in message


def test_unknown_keys_are_reported_with_other_errors(write_study):
    path = write_study(("steps = 4", "steps = 4\nstpes = 4"), ('"rope"]', '"rpoe"]'))
    messages = problems(path)
    assert len(messages) == 2
    assert "train.stpes: unknown key; did you mean 'steps'?" in messages[0]
    assert "did you mean 'rope'?" in messages[1]


def test_invalid_toml_is_reported_with_line_and_column(write_study):
    path = write_study(("steps = 4", "steps = = 4"))
    assert "line 17, column 9" in problems(path)[0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            {"where": ["attention=mqa"]},
            "--where attention=mqa: 'mqa' matches nothing; did you mean 'mha'?",
        ),
        (
            {"where": ["atention=mha"]},
            "--where atention=mha: must be AXIS=NAME; did you mean 'attention'?",
        ),
        ({"settings": ["train.stpes=3"]}, "train.stpes: unknown key; did you mean 'steps'?"),
        ({"settings": ["steps=3"]}, "--set steps=3: must be SECTION.KEY=VALUE"),
        ({"seeds": [-1]}, "study.seeds[0]: -1: input should be greater than or equal to 0"),
    ],
)
def test_an_invalid_option_is_reported(write_study, arguments, expected):
    assert expected in problems(write_study(), **arguments)[0]


def test_a_bias_in_a_kernel_without_one_is_refused(write_study):
    path = write_study(
        ("seeds =", 'variant_paths = ["mine"]\nseeds ='),
        ('"rope"]', '"biased"]'),
        ('["mha",', '["mha", "rigid",'),
    )
    mine = path.parent / "mine"
    (mine / "positional").mkdir(parents=True)
    (mine / "attention").mkdir()
    (mine / "positional/biased.py").write_text(
        "from variants.base import Positional\nclass Biased(Positional):\n    has_bias = True\n"
    )
    (mine / "attention/rigid.py").write_text(
        "from variants.attention.mha import MultiHead\n"
        "class Rigid(MultiHead):\n    supports_bias = False\n"
    )
    (message,) = problems(path)
    assert 'positional = "biased", attention = "rigid"' in message


def test_an_invalid_study_ends_with_code_2_and_writes_nothing(write_study, tmp_path):
    path = write_study(('"rope"]', '"rpoe"]'))
    results = tmp_path / "results"
    command = [sys.executable, "-m", "harness", "run", str(path), "--results", str(results)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 2 and "did you mean 'rope'?" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert finished.stdout == "" and not results.exists()


def test_only_a_model_that_cannot_be_built_is_refused(write_study):
    path = write_study(("seeds =", 'variant_paths = ["mine"]\nseeds ='), ('"rope"]', '"ours"]'))
    file = path.parent / "mine/positional/ours.py"
    file.parent.mkdir(parents=True)
    head = "from variants.base import Positional\nclass Ours(Positional):\n"
    file.write_text(
        head + "    def embed(self, x, positions):\n        return x * float(x.sum() > 0)\n"
    )
    assert load(path, where=["positional=ours"]).runs[0].expected.memory_bytes is None
    file.write_text(
        head + "    def __init__(self, shape, options):\n        raise ValueError('planted')\n"
    )
    assert problems(path) == [
        f"{path}: axes.positional[1]: {file}:4: `__init__` of Ours raises ValueError: planted"
    ]


def test_a_rotation_of_an_unsupported_width_is_refused(write_study):
    """Otherwise the first forward pass would fail."""
    path = write_study(
        ("n_embd = 32", "n_embd = 24"),
        ('["mha", { variant = "gqa", n_kv_head = 2 }', '["mha", "differential"'),
    )
    with pytest.raises(UserError) as raised:
        load(path)
    (problem,) = {str(problem) for problem in raised.value.problems}
    assert "axes: rope rotates a width of 3 in differential: " in problem


def test_a_parallelism_that_needs_gpus_is_refused_without(write_study):
    """It would silently be one process on one CPU."""
    path = write_study(('{ variant = "ddp", nproc = 2 }', '"dp"'))
    assert problems(path, ["train.device=cpu"]) == [
        f"{path}: axes.parallelism: dp runs on cuda, and train.device is cpu; exclude it"
    ]


def test_heads_that_do_not_divide_are_refused_by_entry(write_study):
    path = write_study(
        ('variant = "ddp"', 'variant = "tp"'),
        ('["mha", { variant = "gqa", n_kv_head = 2 }', '["mha", "mqa"'),
    )
    reason = "1 key-value heads do not divide over 2 processes; add [[exclude]] with these"
    assert problems(path) == [
        f"{path}: axes: {positional}, mqa, tp2: MultiQuery at h.0.attn: {reason}"
        for positional in ("learned", "rope")
    ]
    rule = (
        '\n[[exclude]]\nattention = "mqa"\nparallelism = "tp"\nreason = "has one key-value head"\n'
    )
    path.write_text(path.read_text() + rule)
    assert len(load(path).runs) == 20


@pytest.mark.parametrize(
    ("compare", "expected"),
    [
        ('["atention"]', "study.compare[0]: 'atention': no such axis; did you mean 'attention'?"),
        ('["attention", "norm"]', "study.compare[1]: 'norm' has one level in this study"),
        ("[]", "study.compare: []: list should have at least 1"),
    ],
)
def test_only_axes_that_vary_can_be_compared(write_study, compare, expected):
    (message,) = problems(write_study(("seeds =", f"compare = {compare}\nseeds =")))
    assert expected in message
