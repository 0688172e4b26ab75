"""Without these, a setting could have another value than its expression, or run code of a study."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config import load
from harness.errors import UserError
from harness.study.expressions import MAX_LENGTH, NAMES, ExpressionError, parse
from harness.study.settings import SECTIONS, find_expression, setting_keys

VALUES = {"parameters": 5000, "n_embd": 32, "n_layer": 2, "tokens_per_step": 128, "seq_len": 16}
LEAVES = st.sampled_from([*NAMES, "3", "0.5", "1e3", "20"])
INTEGERS = re.compile(r"(?<![\w.])\d+(?![\w.])")
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%", "**"]), inner).map(
            lambda parts: f"({' '.join(parts)})"
        )
        | inner.map(lambda text: f"(-{text})")
    ),
    max_leaves=6,
)


@given(TREES)
def test_a_value_is_what_python_computes(text):
    floats = {name: float(value) for name, value in VALUES.items()}
    in_floats = INTEGERS.sub(r"\g<0>.0", text)  # powers of integers have no limit of time
    try:
        expected = eval(in_floats, {"__builtins__": {}}, floats)
    except (ZeroDivisionError, OverflowError):
        expected = None
    is_real = isinstance(expected, int | float) and math.isfinite(expected)
    try:
        value = parse(text).evaluate(VALUES)
    except ExpressionError:
        assert not is_real or abs(expected) > 1e300
    else:
        assert is_real and value == pytest.approx(expected, rel=1e-12)


INVALID = {
    "20 * paramters / 3": "column 6: no such name 'paramters'; did you mean 'parameters'?",
    "": "column 1: not an expression",
    "n_embd +": "column 9: not an expression",
    "  (n_embd": "column 3: not an expression",
    "n_embd, 3": "column 1: `(n_embd, 3)` is not allowed",
    "  n_embd < 3": "column 3: `n_embd < 3` is not allowed; allowed: numbers, parameters",
    "3 * max(n_embd, 4)": "column 5: `max(n_embd, 4)` is not allowed",
    "n_embd.real": "column 1: `n_embd.real` is not allowed",
    "__import__('os')": "column 1: `__import__('os')` is not allowed",
    "3 * 'a'": "column 5: `'a'` is not allowed",
    "True + 1": "column 1: `True` is not allowed",
    "3j * 2": "column 1: `3j` is not allowed",
    "n_embd ^ 2": "column 1: `n_embd ^ 2` is not allowed",
    "n_embd × 2": "column 8: '×' is not allowed",
    "n_embd\n": "column 7: '\\n' is not allowed",
    "(" * MAX_LENGTH: "column 200: not an expression",
    "1 + " * MAX_LENGTH: f"column {MAX_LENGTH + 1}: longer than {MAX_LENGTH} characters",
    "-" * (MAX_LENGTH - 1) + "1": None,
    "3 / 0": None,
}


@pytest.mark.parametrize("text", INVALID)
def test_another_text_is_refused_with_its_column(text):
    expected = INVALID[text]
    if expected is None:
        assert parse(text).text == text
        return
    with pytest.raises(ExpressionError) as error:
        parse(text)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 / (n_embd - 32)", "division by zero: `n_embd - 32` is 0 here"),
        ("3 // 0", "division by zero: `0` is 0 here"),
        ("n_embd % 0", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("(0 - 8) ** 0.5", "a root of the negative number -8 is not real"),
        ("9 ** 9 ** 9 ** 9", "its value is too large"),
        ("1e308 * 10", "its value is too large"),
        (f"{'9' * 190} ** 2", "its value is too large"),
    ],
)
def test_an_expression_without_a_value_is_refused(text, expected):
    with pytest.raises(ExpressionError) as error:
        parse(text).evaluate(VALUES)
    assert expected in str(error.value)


def test_only_numbers_of_model_and_train_may_be_expressions():
    text = "n_embd * 2"
    allowed = {key for key in setting_keys() if find_expression(key, text) is not None}
    numeric = {"model.n_layer", "model.dropout", "train.lr", "train.steps", "train.eval_tokens"}
    assert numeric <= allowed and "train.micro_batch_size" in allowed
    others = {"train.precision", "train.device", "train.compile", "train.deterministic"}
    assert not allowed & (others | {f"data.{key}" for key in SECTIONS["data"].model_fields})
    assert find_expression("train.eval_tokens", "all") is None


def lines(**settings):
    return "\n".join(f'{key} = "{text}"' for key, text in settings.items())


@pytest.fixture
def write(write_study):
    """Return a function that writes a study of three attentions with these settings."""

    def write_expressions(train="", model="", more="", steps=True):
        replacements = [
            ("seq_len = 16", f"seq_len = 16\n{model}"),
            ("steps = 4", f"{'steps = 4' if steps else ''}\n{train}"),
            ('parallelism = ["single", { variant = "ddp", nproc = 2 }]\n', ""),
        ]
        return write_study(*replacements, more=more)

    return write_expressions


def test_a_ladder_keeps_its_tokens_per_parameter(write):
    size = """
size = [
    { label = "S", "model.n_embd" = 16 },
    { label = "M", "model.n_embd" = 32 },
]
"""
    settings = lines(
        steps="20 * parameters / tokens_per_step",
        lr="3e-3 * (16 / n_embd)",
        warmup_steps="20 * parameters / tokens_per_step / 10",
        eval_every="n_layer / 10",
    )
    runs = load(write(settings, more=size, steps=False), seeds=[0]).runs
    assert len({spec.train.steps for spec in runs}) == 8  # the variants' parameters count
    for spec in runs:
        assert spec.train.steps == round(20 * spec.expected.parameters / 128)
        assert spec.train.warmup_steps == round(2 * spec.expected.parameters / 128)
        assert spec.train.lr == 3e-3 * 16 / spec.model.n_embd
        assert spec.train.eval_every == 1
    assert len({spec.settings_hash for spec in runs}) == 1  # one table; the expression counts
    other = write(settings.replace("20 *", "21 *"), more=size, steps=False)
    assert load(other, seeds=[0]).settings_hash != runs[0].settings_hash


def test_an_expression_of_a_level_has_its_value_in_the_spec(write):
    levels = '"train.lr" = [{ value = "0.032 / n_embd", label = "scaled" }, 5e-3]\n'
    runs = load(write(more=levels), seeds=[0]).runs
    scaled = runs[0]
    assert scaled.axes["train.lr"].options == {"train.lr": 1e-3} and scaled.train.lr == 1e-3
    plain = load(write(more='"train.lr" = [1e-3, 5e-3]\n'), seeds=[0]).runs[0]
    assert scaled.run_id.rsplit("-", 1)[1] == plain.run_id.rsplit("-", 1)[1]
    assert {spec.settings_hash for spec in runs} == {plain.settings_hash}


def test_expressions_may_use_each_other(write):
    train = lines(min_lr="n_layer / 1e5", eval_tokens="seq_len * 4")
    path = write(train, model=lines(dropout="n_layer / 10"))
    spec = load(path, ["model.n_embd=n_layer * n_layer * 8", "train.lr=0.1"]).runs[0]
    assert spec.model.n_embd == 32 and spec.model.dropout == 0.2
    assert spec.train.min_lr == 2e-5 and spec.train.eval_tokens == 64


def test_the_parameters_are_those_of_matched_widths(write):
    path = write(lines(steps="parameters / 100"), steps=False)
    path.write_text(path.read_text().replace("seeds =", 'match_size = "parameters"\nseeds ='))
    for spec in load(path, seeds=[0]).runs:
        assert spec.train.steps == round(spec.expected.parameters / 100)


CASES = {
    "cycle": (
        {"model": lines(dropout="parameters / 1e9")},
        "model.dropout: 'parameters / 1e9': parameters would depend on itself, as it follows from "
        "[model]; allowed here: n_embd, n_layer, seq_len",
    ),
    "unknown name": (
        {"train": lines(lr="3e-3 / n_emb")},
        "train.lr: '3e-3 / n_emb': column 8: no such name 'n_emb'; did you mean 'n_embd'?",
    ),
    "not whole": (
        {"train": lines(eval_tokens="n_embd / 3")},
        "train.eval_tokens: 'n_embd / 3': gives 10.6667, which is not a whole number; the nearest "
        "are 10 and 11",
    ),
    "bounds": (
        {"train": lines(lr="n_layer - 3")},
        "train.lr: 'n_layer - 3' gives -1.0: input should be greater than 0",
    ),
    "steps below one": (
        {"train": lines(steps="n_layer - 2"), "steps": False},
        "train.steps: 'n_layer - 2' gives 0: input should be greater than or equal to 1",
    ),
    "too many steps": (
        {"train": lines(steps="1e300"), "steps": False},
        "train.steps: '1e300': input should be a valid integer",
    ),
    "huge steps": (
        {"train": lines(steps="1e300 * n_layer"), "steps": False},
        "train.steps: '1e300 * n_layer' gives 2",
    ),
    "division": (
        {"train": lines(lr="1 / (n_layer - 2)")},
        "train.lr: '1 / (n_layer - 2)': division by zero: `n_layer - 2` is 0 here",
    ),
    "name with another error": (
        {"train": lines(lr="1e-3 / tokens_per_step", micro_batch_size="tokens_per_step / 3")},
        "train.micro_batch_size: 'tokens_per_step / 3': gives 42.6667, which is not a whole",
    ),
    "itself": (
        {"model": lines(dropout="n_layer / 10"), "more": '"model.n_layer" = ["n_layer", 2]\n'},
        "axes.\"model.n_layer\"[0]: 'n_layer': depends on itself: model.n_layer -> model.n_layer",
    ),
    "each other": (
        {
            "more": "pair = [\n"
            '{ label = "a", "model.n_layer" = "n_embd // 16", "model.n_embd" = "n_layer * 16" },\n'
            '{ label = "b", "model.n_layer" = 2, "model.n_embd" = 32 }]\n'
        },
        "axes.pair[0].model.n_layer: 'n_embd // 16': depends on itself: model.n_layer -> "
        "model.n_embd -> model.n_layer",
    ),
    "a level": (
        {"more": '"train.lr" = ["2 *", 0.1]\n'},
        "axes.\"train.lr\"[0]: '2 *': column 4: not an expression; allowed: numbers, parameters",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_invalid_expression_is_named(write, case):
    arguments, expected = CASES[case]
    with pytest.raises(UserError) as error:
        load(write(**arguments))
    assert any(expected in str(problem) for problem in error.value.problems), error.value.problems


def test_counts_of_the_parameters_and_other_problems_are_reported(write):
    """A model that cannot be built has no number of parameters: the reason is what counts."""
    path = write(lines(steps="parameters"), steps=False)
    path.write_text(path.read_text().replace("n_head = 4", "n_head = 5"))
    with pytest.raises(UserError) as error:
        load(path)
    assert all("head = 5" in str(p) or "model.n_head: 5" in str(p) for p in error.value.problems)
