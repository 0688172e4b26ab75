"""No value of a study or of the command line crashes, hangs, or starts a run that must fail.

The fields come from the schema, from the options of all variants and from the command line itself.
`FUZZ=5000` tries so many cases.
"""

import contextlib
import dataclasses
import io
import os
import subprocess
import time
from typing import get_args, get_type_hints

import matplotlib.font_manager  # noqa: F401 - its first import on a machine starts a process
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from study_fields import FIELDS, STUDY, with_companions

from harness.cli.app import build_app, main
from variants import registry
from variants.base import AXES

N = int(os.environ.get("FUZZ", "500"))
CPU_LIMIT_S = 30  # far above what a refusal takes: only a loop over a huge number exceeds it
DIGITS = "9" * 5000
NEVER_VALID = ["nan", "inf", "-inf", str(10**25), str(-(10**25)), DIGITS, f"-{DIGITS}"]
OTHERS = ["-1", "0", "1", "3", "0.5", "1.5", "1e-320", str(2**31), str(2**53), str(2**63 - 1)]
WRONG_TYPES = ["true", '"x"', '""', "[]", "{}", "[[]]", "1979-05-27", "{ a = 1 }", f"0x{DIGITS}"]
VALUES = st.sampled_from([*NEVER_VALID, *OTHERS, *WRONG_TYPES])
VALUES |= st.integers(-(2**70), 2**70).map(str)

REQUIRED = {"gqa": {"n_kv_head": "2"}, "sliding_window": {"window": "4"}}


def numeric(annotation) -> bool:
    """Return whether a value of this type may be, or hold, a number."""
    return annotation in (int, float) or any(map(numeric, get_args(annotation)))


def numeric_options():
    """Yield axis, variant and name of each numeric option of all variants."""
    for axis in AXES:
        for variant in registry.files(axis):
            cls = registry.load(axis, variant).Options
            types = get_type_hints(cls)
            for field in dataclasses.fields(cls):
                if numeric(types[field.name]):
                    yield axis, variant, field.name


def numeric_flags():
    """Yield command and name of each numeric option of the command line."""
    commands = build_app().registered_commands
    for command in (command for command in commands if not command.hidden):
        for parameter, annotation in get_type_hints(command.callback).items():
            if numeric(annotation):
                yield command.name, "--" + parameter.replace("_", "-")


OPTIONS = list(numeric_options())
FLAGS = [*numeric_flags(), ("list", "--seeds")]


def refuse(*_, **__):
    raise AssertionError("a process was started")


def call(*command):
    """Run a command that may start no process; return its exit code and its errors."""
    err = io.StringIO()
    started_s = time.process_time()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        patch.setattr(subprocess, "Popen", refuse)
        main([str(argument) for argument in command])
    assert end.value.code == 0 or time.process_time() - started_s < CPU_LIMIT_S
    message = err.getvalue()
    assert end.value.code in (0, 2), message
    assert "Traceback" not in message
    assert len(message) < 3000
    return end.value.code, message


def check(command, name, value):
    """Check that a command accepts a value, refuses it by name, or lacks an optional package."""
    code, message = call(*command)
    assert code == 2 or value not in NEVER_VALID, f"{name} = {value} was accepted"
    assert code == 0 or name in message or "needs the package" in message, message


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Return a function that writes a study of some keys and returns its path."""
    folder = tmp_path_factory.mktemp("numbers")
    (folder / "text.txt").write_text("To be, or not to be, that is the question.\n" * 40)

    def write_study(keys):
        path = folder / "study.toml"
        path.write_text("\n".join(f"{key} = {value}" for key, value in keys.items()))
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ABLATIONS_CACHE", str(folder / "cache"))
        yield write_study


def test_the_fields_are_found():
    """Without fields, the other tests here would pass without a check."""
    margin = "study.equivalence_margin.val_loss"
    assert {"model.n_embd", "train.lr", "study.seeds", margin} < set(FIELDS)
    assert {"launch.timeout_s", "probes.decode.batch", "init.from_run.train.lr"} < set(FIELDS)
    assert {("parallelism", "ddp", "nproc"), ("attention", "mla", "kv_rank")} < set(OPTIONS)
    assert {("plan", "--effect-size"), ("sample", "--top-p"), ("report", "--interval")} < set(FLAGS)


@pytest.mark.parametrize("key", FIELDS)
def test_each_key_of_a_study_can_be_tried(write, key):
    check(["list", write(with_companions(key) | {key: "1"})], key.rpartition(".")[2], "1")


@settings(max_examples=N // 4, suppress_health_check=list(HealthCheck))
@given(key=st.sampled_from(FIELDS), value=VALUES, in_list=st.booleans(), override=st.booleans())
@example(key="model.n_embd", value=str(2**63 - 1), in_list=False, override=False)
@example(key="model.n_embd", value=DIGITS, in_list=False, override=False)
@example(key="study.equivalence_margin.val_loss", value="inf", in_list=False, override=False)
@example(key="probes.decode.batch", value=str(10**11), in_list=True, override=False)
@example(key="init.from_run.train.lr", value="nan", in_list=False, override=True)
def test_a_value_of_a_study_is_valid_or_named(write, key, value, in_list, override):
    item = f"[{value}]" if in_list else value
    keys = with_companions(key)
    name = key.rpartition(".")[2]
    if override and key.count(".") == 0:
        return  # `--set` changes settings, not sections
    if override:
        check(["list", write(keys), "--set", f"{key}={item}"], name, value)
    else:
        check(["list", write(keys | {key: item})], name, value)


@settings(max_examples=N * 2 // 5, suppress_health_check=list(HealthCheck))
@given(option=st.sampled_from(OPTIONS), value=VALUES, in_list=st.booleans())
@example(option=("attention", "mha", "logit_softcap"), value="inf", in_list=False)
@example(option=("attention", "sliding_window", "dilation"), value=str(2**31 - 1), in_list=False)
@example(option=("parallelism", "ddp", "bucket_mb"), value=str(2**31 - 1), in_list=False)
def test_an_option_of_a_variant_is_valid_or_named(write, option, value, in_list):
    axis, variant, name = option
    item = f"[{value}]" if in_list else value
    given_options = REQUIRED.get(variant, {}) | {name: item}
    listed = ", ".join(f"{key} = {text}" for key, text in given_options.items())
    element = f'{{ variant = "{variant}", label = "x", {listed} }}'
    path = write(STUDY | {f"axes.{axis}": f"[{element}]"})
    code, message = call("list", path)
    assert code == 2 or value not in NEVER_VALID, f"{variant}.{name} = {value} was accepted"
    assert code == 0 or name in message or value not in NEVER_VALID, message
    # A valid value may lead to an entry that this machine or this shape does not support.
    assert code == 0 or ": axes" in message or ": train" in message, message


@settings(max_examples=N // 10, suppress_health_check=list(HealthCheck))
@given(flag=st.sampled_from(FLAGS), value=VALUES)
@example(flag=("plan", "--effect-size"), value="inf")
def test_a_flag_is_valid_or_named(write, tmp_path, flag, value):
    command, name = flag
    study = write(STUDY)
    arguments = {
        "list": [study],
        "plan": ["absent", "--results", tmp_path, "--effect-size", "1"],
        "report": ["absent", "--results", tmp_path],
        "run": [study, "--until", "resolved", "--dry-run"],
        "sample": [tmp_path, "--prompt", "a"],
    }[command]
    code, message = call(command, *arguments, f"{name}={value}")
    if value in [*NEVER_VALID, *WRONG_TYPES]:
        assert code == 2 and name in message, message
    # A valid value leads to the next error: there are no such results.
    assert code == 0 or name in message or str(tmp_path) in message, message
