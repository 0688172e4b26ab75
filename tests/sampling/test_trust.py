"""A checkpoint folder runs no code of its own without consent, whichever command reads it."""

import contextlib
import io
import json
import pickle

import pytest
import torch

from harness.cli.app import main
from harness.config import load
from harness.errors import UserError
from harness.model.weights import read_weights, read_weights_file
from harness.sampling.lm_eval import Ablations

VARIANT = """
from pathlib import Path

from variants.base import Positional

Path(__file__).with_name("ran").touch()


class Mine(Positional):
    def embed(self, x, positions):
        return x
"""
FOLDERS = {
    "named plainly": lambda folder: folder,
    "through a link": lambda folder: folder.with_name("link"),
}


@pytest.fixture(params=FOLDERS)
def checkpoint(request, tmp_path, save):
    """A checkpoint with a variant outside of this program, and the file that shows that it ran."""
    folder = tmp_path / "theirs"
    (folder / "positional").mkdir(parents=True)
    (folder / "positional/mine.py").write_text(VARIANT)
    folder.with_name("link").symlink_to(folder)
    path = save(positional="rope")
    content = json.loads((path / "checkpoint.json").read_text())
    content["axes"]["positional"] |= {"name": "mine", "label": "mine"}
    content["variant_paths"] = [str(FOLDERS[request.param](folder))]
    (path / "checkpoint.json").write_text(json.dumps(content))
    return path, folder / "positional/ran"


def call(*command):
    """Return the exit code, stdout and stderr of a command."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        main([str(part) for part in command])
    return end.value.code, out.getvalue(), err.getvalue()


COMMANDS = {
    "export": ("checkpoint", "export", "CHECKPOINT", "DEST"),
    "sample": ("sample", "CHECKPOINT", "--prompt", "a", "--length", "2", "--device", "cpu"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_names_the_code_and_refuses(checkpoint, command, tmp_path):
    path, ran = checkpoint
    places = {"CHECKPOINT": path, "DEST": tmp_path / "dest"}
    arguments = [places.get(part, part) for part in COMMANDS[command]]
    code, out, err = call(*arguments)
    assert (code, out) == (2, "") and not ran.exists()
    assert "positional/mine.py; give --trust-code" in err, err
    code, out, err = call(*arguments, "--trust-code")
    assert ran.exists(), err
    if command == "sample":
        assert code == 0 and out.startswith("a"), err
    else:
        assert code == 2 and "positional = mine" in err, err  # GPT-2 does not have it


def test_show_needs_no_code(checkpoint):
    path, ran = checkpoint
    code, out, err = call("checkpoint", "show", path)
    assert code == 0 and "positional=mine" in out and not ran.exists()
    assert "positional/mine.py; give --trust-code" in err
    code, trusted, err = call("checkpoint", "show", path, "--trust-code")
    assert code == 0 and trusted == out and not err and ran.exists()


def test_the_adapter_of_lm_eval_asks_for_consent(checkpoint):
    path, ran = checkpoint
    for value in (False, "false", 0):
        with pytest.raises(UserError, match=r"mine\.py; give trust_code=true in --model_args"):
            Ablations(str(path), trust_code=value)
        assert not ran.exists()
    Ablations(str(path), trust_code=True)
    assert ran.exists()


def test_a_study_trusts_its_own_folders(checkpoint, tmp_path):
    path, ran = checkpoint
    (tmp_path / "text.txt").write_text("abc" * 400)
    study = f"""
[study]
name = "s"
seeds = [0]
FOLDERS
[model]
n_layer = 2
n_head = 4
n_embd = 32
seq_len = 16
[data]
corpus = "text.txt"
[train]
steps = 2
tokens_per_step = 64
micro_batch_size = 4
device = "cpu"
[init]
from_checkpoint = "{path}"
"""
    file = tmp_path / "study.toml"
    file.write_text(study.replace("FOLDERS", ""))
    with pytest.raises(UserError, match=r"mine\.py; if you trust them, name their folder in stu"):
        load(file)
    assert not ran.exists()
    file.write_text(study.replace("FOLDERS", 'variant_paths = ["theirs"]'))
    load(file)
    assert ran.exists()


def test_weights_are_read_without_their_code(checkpoint):
    """A rank that starts from them reads them so."""
    path, ran = checkpoint
    assert read_weights(path).parameters and not ran.exists()


class Runs:
    """A pickle of it runs code when it is loaded."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


@pytest.mark.parametrize(
    "write", [torch.save, lambda value, file: file.write_bytes(pickle.dumps(value, 2))]
)
def test_no_pickle_of_weights_is_run(write, tmp_path):
    write({"weight": torch.zeros(2), "other": Runs(tmp_path / "ran")}, tmp_path / "model.bin")
    with pytest.raises(UserError, match=r"could run code|not a weights file"):
        read_weights_file(tmp_path / "model.bin")
    assert not (tmp_path / "ran").exists()
