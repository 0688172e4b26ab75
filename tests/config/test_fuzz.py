"""No invalid study file ends in a traceback or starts a process.

`FUZZ=2000` tries 2,000 files.
"""

import contextlib
import io
import os
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.cli.app import main

N = int(os.environ.get("FUZZ", "40"))
WORDS = st.sampled_from(
    [
        "0",
        "-1",
        "1e400",
        "nan",
        "[]",
        "{}",
        '""',
        "[[1]]",
        '"rope"',
        '"mha"',
        "true",
        "1979-05-27",
        "[axes]",
        "\n",
        "=",
        '"',
        "[[include]]\n",
        "[[exclude]]\n",
        "attention",
        "nproc = 3",
        "{ variant = 1 }",
        '{ variant = "gqa" }',
        '["rope", 3]',
        "é",
        "\x00",
        '"train.lr" = [1e-3, 3e-3]',
        '"train.lr" = ["2e-3 / n_layer", 1]',
        '"train.lrr" = [1, 2]',
        "model.n_layer = [1, 2]",
        "train.steps = [2, 2]",
        'size = [{ label = "S", "model.n_layer" = 1 }, { label = "L", model.n_layer = 3 }]',
        '{ value = 1, label = "x" }',
        '["n_layer", "parameters"]',
        '"20 * parameters / tokens_per_step"',
        '"9 ** 9 ** 9 ** 9"',
        '"1 / (n_layer - 2)"',
        '"(n_embd"',
        "size",
        '"model.n_embd"',
        'compare = ["size"]',
    ]
)
# Axes of settings, added to the study: a mutation hits them as it hits the others.
SETTING_AXES = """
"train.lr" = [1e-3, { value = "3e-3 * (32 / n_embd)", label = "scaled" }]
size = [
    { label = "S", "model.n_layer" = 1, "train.steps" = "parameters // tokens_per_step" },
    { label = "M", "model.n_layer" = 2, "train.steps" = 5 },
]
[[exclude]]
size = "M"
"train.lr" = 0.001
reason = "slow"
"""


@st.composite
def mutations(draw):
    """Return a function that damages a text: it adds, replaces, removes or moves lines."""
    edits = draw(
        st.lists(
            st.tuples(st.floats(0, 0.999), st.integers(0, 3), WORDS | st.text(max_size=4)),
            max_size=4,
        )
    )

    def apply(text):
        for where, kind, word in edits:
            lines = text.split("\n")
            row = int(where * len(lines))
            key, equals, _ = lines[row].partition("=")
            if kind == 0 and equals:
                lines[row] = f"{key}= {word}"
            elif kind == 1:
                lines.insert(row, word)
            elif kind == 2:
                lines.append(lines.pop(row))
            else:
                cut = int(where * len(text))
                lines = (text[:cut] + word + text[cut + len(word) :]).split("\n")
            text = "\n".join(lines)
        return text

    return apply


def refuse(*_, **__):
    raise AssertionError("a process was started")


@settings(max_examples=N, suppress_health_check=list(HealthCheck))
@given(mutate=mutations(), varied=st.booleans())
def test_a_mutated_study_is_a_matrix_or_an_error_on_one_screen(write_study, mutate, varied):
    path = write_study(more=SETTING_AXES if varied else "")
    path.write_bytes(mutate(path.read_text()).encode("utf-8", "surrogatepass"))
    for command in (["list", str(path), "--json"], ["run", str(path), "--dry-run"]):
        out, err = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patch.setattr(subprocess, "Popen", refuse)
            with pytest.raises(SystemExit) as end:
                main(command)
        message = err.getvalue()
        assert end.value.code in (0, 2), message
        assert "Traceback" not in message and len(message.splitlines()) <= 50
        assert end.value.code == 0 or message.startswith("error"), message
        assert end.value.code == 2 or out.getvalue()
