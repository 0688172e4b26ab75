"""Without these, a command could lose its help, its exit code, or its clean stdout."""

import importlib
import json
import tomllib
from pathlib import Path

import pytest

import harness
from harness.cli.app import main
from harness.data.tokenizers import NAMES
from harness.errors import UserError
from harness.launch import fork_server

COMMANDS = ["list", "run", "check", "status", "plan", "report", "compare", "export", "sample"]
SUBCOMMANDS = ["checkpoint import", "checkpoint export", "checkpoint show", "data prepare"]

STUDY = """
study = { name = "s", seeds = [0] }
model = { n_layer = 1, n_head = 2, n_embd = 16, seq_len = 16 }
data = { corpus = "text.txt" }
train = { steps = 1, tokens_per_step = 32 }
axes = { positional = ["learned", "rope"], attention = ["mha", "mqa"] }
"""


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def call(capsys):
    """Return a function that runs a command and returns its exit code, stdout and stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        return end.value.code, *capsys.readouterr()

    return run


def test_help_lists_every_command_except_the_hidden_one(call):
    code, out, _ = call("--help")
    assert code == 0
    for command in [*COMMANDS, "checkpoint"]:
        assert f" {command} " in out
    assert "_worker" not in out and "_node" not in out and ">>>" not in out


@pytest.mark.parametrize("command", [*COMMANDS, *SUBCOMMANDS, "_worker", "_node"])
def test_help_of_a_command_shows_an_example(call, command):
    code, out, _ = call(*command.split(), "--help")
    assert code == 0 and f"Example: python -m harness {command} " in out


def test_help_names_every_tokenizer(call):
    _, out, _ = call("sample", "--help")
    assert all(name in out for name in NAMES)


def test_the_console_script_is_the_command_line():
    settings = tomllib.loads((Path(harness.__file__).parents[1] / "pyproject.toml").read_text())
    module, _, name = settings["project"]["scripts"]["ablations"].partition(":")
    assert getattr(importlib.import_module(module), name) is main


def test_version_is_that_of_the_package(call):
    assert call("--version") == (0, harness.__version__ + "\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "No such command"),
        (["run"], "Missing argument"),
        (["run", "study.toml", "--where", "a=b", "c=d"], "c=d"),
        (["list", "study.toml", "--seeds", "0,x"], "must be integers"),
        (["plan", "study"], "--effect-size"),
        (["plan", "study", "--effect-size", "0"], "must be above 0"),
        (["export", "study", "--to", "excel"], "excel"),
        (["compare", "a"], "Missing argument"),
        (["list", "nowhere.toml"], "no such study file"),
        (["status", "absent", "--results", "nowhere"], "run it first"),
    ],
)
def test_an_invalid_command_line_ends_with_code_2(call, arguments, message):
    code, out, err = call(*arguments)
    assert code == 2 and out == "" and message in err and "Traceback" not in err


SERVERS = {
    "by default": ("", [], 1),
    "of a study for Slurm": ('[launch]\non = "slurm"', [], 0),
    "with an option for Slurm": ("", ["--on", "slurm"], 0),
    "with an option for here": ('[launch]\non = "slurm"', ["--on", "local"], 1),
    "to list runs": ("", ["--dry-run"], 0),
    "of an invalid study": ("[launch]\non = 1", [], 0),
}


@pytest.mark.parametrize(("section", "options", "n_started"), SERVERS.values(), ids=SERVERS)
def test_torch_is_preloaded_only_for_runs_here(
    call, tmp_path, monkeypatch, section, options, n_started
):
    """On a login node, a second process with torch takes memory that others need."""
    study = tmp_path / "study.toml"
    study.write_text(STUDY + section)
    started = []
    monkeypatch.setattr(fork_server, "start_fork_server", lambda: started.append(True))
    monkeypatch.setattr("harness.config.load", lambda *_: (_ for _ in ()).throw(UserError("read")))
    assert call("run", study, *options)[0] == 2
    assert len(started) == n_started


def test_list_as_json_prints_only_json(call, tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("To be, or not to be, that is the question.\n" * 40)
    study = tmp_path / "study.toml"
    study.write_text(STUDY)
    where = ["--where", "positional=rope", "--where", "attention=mha"]
    code, out, _ = call("list", study, "--json", *where, "--set", "train.steps=2", "--seeds", "3,4")
    assert code == 0
    assert [entry["seed"] for entry in json.loads(out)["entries"]] == [3, 4]


def test_data_prepare_prints_what_a_study_needs(call, tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("To be, or not to be, that is the question.\n" * 400)
    out = tmp_path / "shards"
    arguments = ("--tokenizer", "bytes", "--out", out, "--val-fraction", "0.1")
    code, printed, err = call("data", "prepare", tmp_path / "text.txt", *arguments)
    assert code == 0 and "Traceback" not in err
    assert printed.startswith("train: 15,") and f'[data]\ncorpus = "{out}"' in printed
    again = call("data", "prepare", tmp_path / "text.txt", *arguments)
    assert again[:2] == (0, printed)
    code, printed, err = call("data", "prepare", "absent.txt", *arguments)
    assert code == 2 and printed == "" and "absent.txt': no such file" in err
