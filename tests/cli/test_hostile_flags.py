"""Every argument and option of every command with every hostile value: named, or done as asked.

The parameters come from the command line itself. Whether a value may be accepted is decided by the
type of its parameter. A sample is tried; `FUZZ=5000` tries all.
"""

import enum
import io
import math
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import torch
import typer
from hostile import STUDY, call, is_clean, sample
from synthetic_results import SyntheticStudy

from harness.cli.app import build_app
from harness.model.builder import ModelBuilder
from harness.model.weights import Weights, save_weights
from harness.printable import one_line
from harness.results.records import VariantChoice
from variants.base import ModelShape

# A call of each command that works, by parameter; "" is an argument's value.
CALLS: dict[str, dict[str, str]] = {
    "list": {"study": "study.toml"},
    "run": {"study": "study.toml", "--dry-run": ""},
    "check": {"path": "study.toml"},
    "status": {"study": "tiny"},
    "cancel": {"study": "tiny"},
    "plan": {"study": "tiny", "--effect-size": "0.1"},
    "report": {"studies": "tiny", "--out": "out"},
    "ingest": {"table": "table.csv", "--study": "mine", "--baseline": "a"},
    "compare": {"a": "tiny", "b": "other", "--out": "out"},
    "reproduce": {"results": "results/tiny", "folder": "again"},
    "export": {"study": "tiny", "--to": "csv", "--out": "out"},
    "sample": {"checkpoint": "own", "--prompt": "To", "--length": "2", "--device": "cpu"},
    "data prepare": {
        "source": "lines.jsonl",
        "--out": "out",
        "--tokenizer": "bytes",
        "--val-fraction": "0.1",
    },
    "results list": {},
    "results remove": {"study": "tiny"},
    "results move": {"study": "tiny", "new_name": "new"},
    "checkpoint import": {"source": "gpt2", "dest": "out"},
    "checkpoint export": {"source": "own", "dest": "out"},
    "checkpoint show": {"source": "own"},
    "_worker": {"spec": "nowhere/spec.json"},
    "_element": {"submission": "nowhere.json"},
}
FAILING = {"reproduce", "results remove", "results move", "_worker", "_element"}
NOT_CALLED = {
    "_node": "it starts ranks",
    "report --watch": "it does not end",
}
TEXTS = {
    **{repr(text): text for text in ("", " ", "-", "--", "=", ",", "x", "None", "true", "[]", "*")},
    **{
        text: text for text in ("-1", "0", "1", "3", "0.5", "nan", "inf", "-inf", "1e999", "1e-320")
    },
    **{
        text: text for text in ("0,1", "1,1", "0,", ",0", "0,a", "0 1", "[0, 1]", "0-3", "٣", "1_0")
    },
    "2**63": str(2**63),
    "5000 digits": "9" * 5000,
    "long": "x" * 10_000,
    "long name": "x" * 300,
    "many numbers": ",".join(map(str, range(20_000))),
    "colour": "\x1b[31mred\x1b[0m",
    "title": "\x1b]0;title\x07",
    "C1": "\x9b31m\x85",
    "bidi": "\u202eabc\u2066",
    "lines": "a\nb\rc\x0bd",
    "100 lines": "a\n" * 100,
    "surrogate": "\udc80",
    "markup": "[bold red]x[/bold red] [/x] [link=file:///]",
    "braces": "{x} %s ${x} `x`",
    "unknown option": "--nothing",
    **{
        text: text
        for text in (
            *("a=b", "=b", "a=", "==", "a=b=c", "attention=", "attention=mha", "attention=,"),
            *("positional=rope", "positional=rope,learned", "positional=x", "positional=rope,x"),
            *(
                "POSITIONAL=rope",
                "train.lr=0.001",
                "attention=\x1b[31m",
                "study=1",
                "study.name=[]",
            ),
            *(
                "study.name=..",
                "study.seeds=[]",
                "train=1",
                "train.=1",
                ".lr=1",
                "train.lr",
                "a.b=1",
            ),
            *("train.lr=", "train.lr=nan", "train.lr=[", "train.lr={", "train.lr=1e999", "x.y.z=1"),
            *("train.lr='1", 'train.lr="""', "train.lr=1979-05-27", "train.steps=2**64", "a..b=1"),
            *("train.steps=1/0", "train.steps=9**9**9**9", "train.steps=parameters", "axes=[]"),
            *("train.lr.x=1", "study.seeds.x=1", "axes.attention=mha", 'axes.attention=["mha"]'),
            *(
                "axes.attention=[[]]",
                'axes."train.lr"=[1]',
                "exclude=[]",
                "exclude.x=1",
                "study.x=1",
            ),
            *("data.corpus=/dev/zero", "data.corpus=pipe", "data.corpus=loop", "launch.on=x"),
            *("axes.train.lr=[1e-3, {}]", "model.n_layer=10000000", "train.steps=1\ntrain.lr=2"),
        )
    },
    "deep setting": f"train.lr={'[' * 3000}",
    "long setting": f"train.lr={'x' * 10_000}",
    "deep key": f"{'a.' * 3000}a=1",
    "deep known key": f"axes.{'a.' * 500}a=1",
    "bytes of a setting": "train.lr=\udc80",
    **{
        f"path {text[:20]}": text
        for text in (
            *(
                "..",
                ".",
                "/",
                "nowhere/x",
                "text.txt",
                "text.txt/x",
                "folder",
                "pipe",
                "loop",
                "full",
            ),
            *(
                "zero",
                "/dev/zero",
                "/dev/full",
                "/proc/self/mem",
                "/proc/1/x",
                "nowhere.toml",
                "s.toml",
            ),
            *("pipe.toml", "loop.toml", "folder.toml", "zero.toml", "tiny@0000000", "tiny@", "@"),
            *("results/tiny", "results", "study.toml", "table.csv", "own", "gpt2", "own/../own"),
            *("a/" * 3000 + "a", "~", "file:///etc/passwd", "*.toml", "study.toml/", "missing.csv"),
        )
    },
}


def parameters(command: Any, path: tuple[str, ...] = ()):
    """Yield the name of each command and its parameters with their types."""
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from parameters(inner, (*path, name))
        return
    types = get_type_hints(command.callback)
    found = {}
    for parameter in command.params:
        name = parameter.opts[0] if parameter.param_type_name == "option" else parameter.name
        found[name] = (types.get(parameter.name, str), parameter)
    yield " ".join(path), found


COMMANDS = dict(parameters(typer.main.get_command(build_app())))
FLAGS = {
    f"{command} {name}": annotation
    for command, found in COMMANDS.items()
    for name, (annotation, _) in found.items()
    if command not in NOT_CALLED and f"{command} {name}" not in NOT_CALLED
}


def conforms(text: str, annotation: Any, name: str) -> bool:
    """Return whether a text may be a value of a type."""
    if get_origin(annotation) in (Union, type(int | None)):
        return any(conforms(text, other, name) for other in get_args(annotation))
    if get_origin(annotation) is Literal:
        return text in get_args(annotation)
    if get_origin(annotation) is list:
        return conforms(text, get_args(annotation)[0], name)
    if annotation is bool:
        return text == ""  # the flag without a value
    if annotation is type(None):
        return False
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return text in {member.value for member in annotation}
    if annotation in (int, float):
        try:
            return math.isfinite(annotation(text))
        except ValueError:
            return False
    if name == "--seeds":
        return re.fullmatch(r"\s*\w+\s*(,\s*\w+\s*)*", text) is not None
    if name in ("--set", "--where", "--option"):
        return "=" in text.strip("=") and not re.search(r"[\x00-\x1f]", text.partition("=")[0])
    return True


@cache
def _names(command: str) -> tuple[str, ...]:
    return tuple(COMMANDS[command])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a study, results, weights and hostile paths; it is the present one."""
    root = tmp_path_factory.mktemp("flags")
    folder = root / "here"
    folder.mkdir()
    (folder / "text.txt").write_text("To be, or not to be, that is the question.\n" * 40)
    (folder / "lines.jsonl").write_text('{"text": "To be, or not to be."}\n' * 40)
    (folder / "study.toml").write_text(STUDY)
    (folder / "table.csv").write_text("entry,seed,val_loss\na,0,1.0\nb,0,1.5\na,1,1.1\nb,1,1.4\n")
    for ending in ("", ".toml"):
        (folder / f"folder{ending}").mkdir()
        (folder / f"loop{ending}").symlink_to(f"loop{ending}")
        (folder / f"zero{ending}").symlink_to("/dev/zero")
        os.mkfifo(folder / f"pipe{ending}")
    axes = {"positional": ["learned"], "attention": ["mha", "gqa2"], "parallelism": ["single"]}
    shape = ModelShape(n_layer=1, n_head=2, n_embd=8, seq_len=8, vocab_size=256)
    names = {"positional": "learned", "attention": "mha", "parallelism": "single"}
    chosen = {
        axis: VariantChoice(name=name, label=name, options={}) for axis, name in names.items()
    }
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(expected.shape, generator=generator)
        for name, expected in ModelBuilder(shape, chosen, []).model().named_parameters()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda fd: None)
        patch.setattr("sys.stdin", io.StringIO(""))
        patch.setattr("harness.report.charts.mpl.render", lambda spec: {})
        patch.setenv("ABLATIONS_CACHE", str(root / "cache"))
        patch.chdir(folder)
        for name in ("tiny", "other"):
            SyntheticStudy(folder / "results", name=name, axes=axes, steps=4).write()
        save_weights(Weights(shape, chosen, tensors, {}, tokenizer="bytes"), folder / "own")
        assert call("checkpoint", "export", "own", "gpt2", "--format", "gpt2")[0] == 0

        def refuse(*_, **__):
            raise AssertionError("a process was started")

        patch.setattr(subprocess, "Popen", refuse)
        yield folder


def command_line(command: str, name: str, text: str) -> list[str]:
    """Return a call of a command with this value of a parameter."""
    given = CALLS[command] | {name: text}
    line = command.split()
    arguments = []
    for other, value in given.items():
        _, parameter = COMMANDS[command][other]
        if parameter.param_type_name == "argument":
            arguments.append(value)
        elif parameter.is_flag and not (other == name and value):
            line.append(other)
        else:
            line.append(f"{other}={value}")
    return [*line, "--", *arguments]


def snapshot(folder: Path) -> set[Path]:
    return {path for path in folder.parent.rglob("*") if "cache" not in path.parts}


def test_every_parameter_is_tried():
    """Without parameters, the test of values would pass without a check."""
    assert COMMANDS.keys() - NOT_CALLED.keys() == CALLS.keys()
    assert {"run --set", "plan --effect-size", "sample --top-p", "results move new_name"} < set(
        FLAGS
    )
    assert len(FLAGS) > 80 and len(TEXTS) > 100


@pytest.mark.parametrize("command", sample(CALLS.keys() - FAILING, n=3))
def test_each_command_can_be_tried(folder, command):
    given = CALLS[command]
    name = next(iter(given), None)
    line = command_line(command, name, given[name]) if name else command.split()
    code, _, err = call(*line)
    remove_new(folder, folder)
    assert code == 0, (line, err)


KEPT = {"text.txt", "lines.jsonl", "study.toml", "table.csv", "results", "own", "gpt2"} | {
    f"{kind}{ending}" for kind in ("folder", "loop", "zero", "pipe") for ending in ("", ".toml")
}


def remove_new(folder: Path, root: Path) -> None:
    """Remove what a command wrote next to the files of the test."""
    for path in root.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


CASES = [f"{flag}: {text}" for flag in FLAGS for text in TEXTS]


@pytest.mark.parametrize("case", sample(CASES, n=25))
def test_a_value_is_named_or_used(folder, case):
    flag, text_name = case.split(": ", 1)
    command, _, name = flag.rpartition(" ")
    text = TEXTS[text_name]
    before = snapshot(folder)
    code, out, err = call(*command_line(command, name, text))
    assert code in (0, 1, 2), (case, err)
    assert is_clean(err), (case, err)
    assert is_clean(out) or command == "sample", (case, out)  # what a model writes stays as it is
    written = snapshot(folder) - before
    given = {folder / value for value in {*CALLS[command].values(), text} if 0 < len(value) < 300}
    allowed = {*given, folder / "reports", folder / "results"}
    roots = [Path(os.path.abspath(root)) for root in allowed]
    for path in written:
        is_asked_for = any(path.is_relative_to(r) or r.is_relative_to(path) for r in roots)
        assert is_asked_for, (case, path)
    remove_new(folder, folder)
    if code:
        assert len(err.splitlines()) <= 50 + len(text) // 60, (case, len(err))
        assert len(err) < 8000 + len(text), (case, len(err))
        assert err, case
    else:
        assert conforms(text, FLAGS[flag], name), (case, "is accepted", out[:500])
    shown = one_line(text).strip()[:10]
    if text_name.startswith("path "):  # as the system names it, or the folder that it is in
        shown = str(Path(text))[:6]
    others = (value for other, value in CALLS[command].items() if other != name)
    known = (name, name.lstrip("-"), shown, "STUDY", "study", "is not set", *others)
    if text in ("*", "*.toml"):  # its files are named
        return
    assert code != 2 or not shown or any(part in err for part in known if part.strip()), (case, err)
