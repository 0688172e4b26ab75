"""Hostile studies, paths and weights: an error on one screen, soon, and never a silent success.

A sample is tried; `FUZZ=5000` tries all.
"""

import json
import os
import pickletools
import random

import pytest
from hostile import STUDY, call, sample

from harness.errors import UserError
from harness.model.weights import read_weights_file
from harness.published.files import read_tensors

SEEDS = "seeds = [0, 1]"
ROPE = '"rope"]'


STUDIES = {  # a text, its replacement, and a part of the message
    **{
        f"{key} = {value}": ("\n[study]", f"\n{key} = {value}\n[study]", f"{key}")
        for key in ("include", "exclude", "init", "axes", "train", "study.seeds")
        for value in ("[1]", "3", '["a"]', "[[]]", '"x"', "1979-05-27")
    },
    **{
        f"{table}: {value}": ("[axes]", f"{table}\n{value}\n[axes]", table.strip("[]\n "))
        for table in ("[[include]]", "[[exclude]]", "[init.from_run]")
        for value in ('positional = ["rope", 3]', "positional = 3", "train = [1]", "x = {}")
    },
    **{
        f"from_run = {value}": ("[axes]", f"[init]\nfrom_run = {value}\n[axes]", "init.from_run")
        for value in ("[1]", "3", '"rope"', "{ positional = [] }", "{ train = 3 }")
    },
    **{
        f"{key} with {name}": (old, new.replace("PATH", path), key)
        for name, path in {
            "a NUL": "a\\u0000b",
            "a loop of links": "loop",
            "a pipe": "pipe",
        }.items()
        for key, old, new in (
            ("init.from_checkpoint", "[axes]", '[init]\nfrom_checkpoint = "PATH"\n[axes]'),
            ("study.variant_paths", SEEDS, f'{SEEDS}\nvariant_paths = ["PATH"]'),
            ("data.corpus", '"text.txt"', '"PATH"'),
            ("study.name", '"s"', '"PATH/x"'),
        )
    },
    **{
        f"corpus {path}": ('"text.txt"', f'"{path}"', "data.corpus")
        for path in ("/dev/zero", "/dev/stdin", "/dev/tty", "/proc/self/mem/x", ".", "")
    },
    **{
        f"label {label!r}": (ROPE, f'{{ variant = "rope", label = "{label}" }}]', "label")
        for label in ("", " ", ".x", "-x", "a/b", "x" * 300, "<b>", "a\\nb")
    },
    **{
        f"variant {name!r}": (ROPE, f'"{name}"]', "no such positional variant")
        for name in (".rope", "..", "../positional/rope", "/etc/passwd", "__init__", "x" * 300)
    },
    **{
        f"name {name!r}": ('"s"', f'"{name}"', "study.name")
        for name in ("x" * 300, ".x", "..", "a/b", "", "/tmp/x", "a b", "a\\nb")
    },
    "deep list": (SEEDS, f"{SEEDS}\nx = {'[' * 3000}{']' * 3000}", "nested too deeply"),
    "deep table": ("[axes]", f"[{'.'.join(['a'] * 3000)}]\n[axes]", "nested too deeply"),
}


@pytest.fixture
def write_study(tmp_path, monkeypatch):
    """Return a function that writes a study with one replacement, next to hostile paths."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("To be, or not to be, that is the question.\n" * 40)
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")

    def write(old, new):
        text = STUDY.replace(old, new, 1)
        assert text != STUDY
        (tmp_path / "study.toml").write_text(text)

    return write


@pytest.mark.parametrize("case", sample(STUDIES))
def test_a_hostile_study_is_refused_with_its_place(write_study, case):
    old, new, part = STUDIES[case]
    write_study(old, new)
    code, _, err = call("list", "study.toml")
    assert code == 2, (case, err)
    assert "Traceback" not in err and len(err.splitlines()) <= 50
    assert part in err or "not TOML" in err, (case, err)


FILES = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
    "folder": lambda path: path.mkdir(),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
}
COMMANDS = {
    "list": ["list"],
    "run": ["run"],
    "check": ["check"],
    "report": ["report"],
    "status": ["status"],
    "cancel": ["cancel"],
    "plan": ["plan", "--effect-size", "0.1"],
    "export": ["export", "--to", "csv"],
}


@pytest.mark.parametrize(
    "case", sample({f"{command} {file}" for command in COMMANDS for file in FILES})
)
def test_what_is_not_a_file_is_not_read(tmp_path, case):
    """From a pipe or a device, a command would read forever."""
    command, file = case.split()
    path = tmp_path / "x.toml"
    FILES[file](path)
    code, _, err = call(*COMMANDS[command], path)
    assert code == 2 and "Traceback" not in err and "x.toml" in err, (case, err)


NAMES = ("/tmp/x", "../x", ".", "..", "a/b", "", "x" * 300, "a\nb", "-", ".x")


@pytest.mark.parametrize("name", NAMES)
def test_no_name_of_a_study_leads_out_of_a_folder(tmp_path, monkeypatch, name):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for command in (
        ("report", "--", name),
        ("export", "--to", "csv", "--", name),
        ("results", "remove", "--", name),
    ):
        code, _, err = call(*command)
        assert code == 2 and "Traceback" not in err, (command, err)
    assert not any(folder.iterdir()) and list(tmp_path.iterdir()) == [folder]


def test_a_byte_order_mark_is_no_part_of_a_study(write_study, tmp_path):
    write_study("steps = 4", "steps = 5")
    path = tmp_path / "study.toml"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    code, _, err = call("list", path)
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    ("file", "options"),
    [("study.toml", "--option=a=1"), ("gelu.py", "--set=train.lr=1"), ("gelu.py", "--where=a=b")],
)
def test_an_option_that_has_no_effect_is_refused(write_study, file, options):
    """A user would believe that the check was made with it."""
    write_study("steps = 4", "steps = 5")
    code, _, err = call("check", file, options)
    name = options.partition("=")[0]
    assert code == 2 and f"{file}: {name}: only for a " in err, err


@pytest.mark.parametrize("path", ["cache", "cache/tokens"])
def test_a_cache_that_cannot_be_written_is_named(write_study, tmp_path, path):
    """As on a full or read-only file system; the corpus would be said to be unreadable."""
    write_study("steps = 4", "steps = 5")
    blocked = tmp_path / path
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_bytes(b"")
    code, _, err = call("list", "study.toml")
    assert code == 2 and str(blocked) in err and "the cache cannot be written" in err, err


@pytest.mark.parametrize(
    "shard", ["model.safetensors.index.json", "../x.safetensors", "/dev/zero", "a/b.safetensors"]
)
def test_an_index_of_shards_names_files_of_its_folder(tmp_path, shard):
    folder = tmp_path / "model"
    folder.mkdir()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"wte.weight": shard}}))
    with pytest.raises(UserError, match=r"weight_map: .* must name a file of weights in its own"):
        read_tensors(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "checkpoint.json"])
def test_weights_that_are_a_pipe_are_not_read(tmp_path, name):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"x")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    for command in (
        ("checkpoint", "import", folder, tmp_path / "dest"),
        ("checkpoint", "show", folder),
    ):
        code, _, err = call(*command)
        assert code == 2 and "Traceback" not in err, err


OPCODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]


@pytest.mark.parametrize("seed", range(20))
def test_bytes_that_are_no_weights_are_named(tmp_path, seed):
    """An unpickler raises errors of any type, as it takes values from an empty stack."""
    numbers = random.Random(seed)
    path = tmp_path / "weights.bin"
    for content in (b"entry,seed\na,0\n", b"".join(numbers.choices(OPCODES, k=20))):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"weights\.bin: "):
            read_weights_file(path)
