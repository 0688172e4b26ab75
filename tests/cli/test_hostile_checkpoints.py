"""Damaged weights, configurations and corpora: named, soon, and never read as something else.

A command that accepts a changed file must write what it writes for the undamaged one. A sample is
tried; `FUZZ=5000` tries all.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hostile import DAMAGES, STUDY, call, restored, sample

from harness.model.builder import ModelBuilder
from harness.model.weights import Weights, save_weights
from harness.results.records import VariantChoice
from variants.base import ModelShape

SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=16, seq_len=8, vocab_size=256)
GPT2 = {"positional": "learned", "attention": "mha", "parallelism": "single"}
LLAMA = GPT2 | {"positional": "rope", "norm": "rmsnorm", "mlp": "swiglu"}
COMMANDS = {
    "import": ("gpt2", ("checkpoint", "import", "SOURCE", "DEST")),
    "import-llama": ("llama", ("checkpoint", "import", "SOURCE", "DEST")),
    "export": ("own", ("checkpoint", "export", "SOURCE", "DEST")),
    "show": ("own", ("checkpoint", "show", "SOURCE")),
    "sample": ("own", ("sample", "SOURCE", "--prompt", "To", "--length", "3", "--device", "cpu")),
}
DESCRIPTIONS = {"gpt2": "config.json", "llama": "config.json", "own": "checkpoint.json"}
VALUES = {
    "missing": None,
    "null": "null",
    "text": '"x"',
    "empty text": '""',
    "number in text": '"2"',
    "negative": "-1",
    "zero": "0",
    "fraction": "1.5",
    "true": "true",
    "list": "[]",
    "table": "{}",
    "NaN": "NaN",
    "infinity": "1e999",
    "large": "1000000000",
    "huge": "1" + "0" * 30,
    "long": "9" * 5_000,
    "NUL": '"a\\u0000b"',
    "path": '"../../x"',
    "surrogate": '"\\ud800"',
    "deep": "[" * 3_000 + "]" * 3_000,
}
SIZES = {  # all other fields may be a name to show, or a provenance
    "gpt2": ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size"),
    "llama": (
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "hidden_size",
        "intermediate_size",
        "max_position_embeddings",
        "vocab_size",
    ),
    "own": ("n_layer", "n_head", "n_embd", "seq_len", "vocab_size", "axes"),
}


def save(folder, shape, names):
    """Save random weights."""
    axes = {axis: VariantChoice(name=name, label=name, options={}) for axis, name in names.items()}
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(expected.shape, generator=generator)
        for name, expected in ModelBuilder(shape, axes, []).model().named_parameters()
    }
    save_weights(Weights(shape, axes, tensors, {}, tokenizer="bytes"), folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return a folder with a checkpoint of ours and one in each published layout."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save(folder / "own", SHAPE, GPT2)
    save(folder / "own-llama", replace(SHAPE, bias=False), LLAMA)
    for ours, layout in (("own", "gpt2"), ("own-llama", "llama")):
        export = ("checkpoint", "export", folder / ours, folder / layout, "--format", layout)
        assert call(*export)[0] == 0
    return folder


def result(folders, command):
    """Return exit code, output and messages of a command, and the content of what it writes."""
    kind, arguments = COMMANDS[command]
    dest = folders / "dest"
    places = {"SOURCE": folders / kind, "DEST": dest}
    code, out, err = call(*(places.get(part, part) for part in arguments))
    written = {path.name: path.read_bytes() for path in sorted(dest.glob("*")) if path.is_file()}
    assert bool(written) == (code == 0 and "DEST" in arguments), "no part is left behind"
    shutil.rmtree(dest, ignore_errors=True)
    return code, out, err, written


@pytest.fixture(scope="module")
def undamaged(folders):
    return {command: result(folders, command) for command in COMMANDS}


def fields(content, *path):
    """Yield the path of each field of a JSON object."""
    for key, value in content.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from fields(value, *path, key)


def changed(content, path, value):
    """Return a JSON object as text with another value of a field, which may be no JSON."""
    content = json.loads(json.dumps(content))
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    if value is None:
        return json.dumps(content)
    parent[path[-1]] = "VALUE"
    return json.dumps(content).replace('"VALUE"', value)


def check(found, expected, file, what):
    """Check that a damage is named, or that it makes no difference."""
    code, out, err, written = found
    assert code in (0, 2), (what, err)
    if code == 2:
        assert str(file.parent) in err or file.name in err, (what, err)
        assert len(err.splitlines()) <= 50, what
    else:
        assert (out, written) == (expected[1], expected[3]), (what, "is accepted")


FILES = [
    f"{command} {file} {damage}"
    for command, (kind, _) in COMMANDS.items()
    for file in (DESCRIPTIONS[kind], "model.safetensors")
    for damage in DAMAGES
]


@pytest.mark.parametrize("case", sample(FILES))
def test_a_damaged_file_is_named(folders, undamaged, case):
    command, file, damage = case.split(" ", 2)
    path = folders / COMMANDS[command][0] / file
    with restored(path):
        DAMAGES[damage](path)
        found = result(folders, command)
    check(found, undamaged[command], path, case)


FIELDS = [
    f"{command} {value}"
    for command in ("import", "import-llama", "export", "sample")
    for value in VALUES
]


@pytest.mark.parametrize("case", sample(FIELDS))
def test_each_field_of_a_description_is_checked(folders, undamaged, case):
    command, value = case.split(" ", 1)
    kind = COMMANDS[command][0]
    path = folders / kind / DESCRIPTIONS[kind]
    content = json.loads(path.read_text())
    for field in fields(content):
        what = (command, ".".join(field), value)
        with restored(path):
            path.write_text(changed(content, field, VALUES[value]))
            found = result(folders, command)
        if found[0] != 0 or field[-1] in SIZES[kind]:
            check(found, undamaged[command], path, what)


TEXT = "To be, or not to be, that is the question.\n" * 40
CORPORA = {  # the files of a corpus, with the one that is damaged first
    "text.txt": {"text.txt": TEXT.encode()},
    "text.jsonl": {
        "text.jsonl": b"".join(b'{"text": "%s"}\n' % line.encode() for line in TEXT.split("\n"))
    },
    "shards": {
        "shards/train_0.bin": np.frombuffer(TEXT.encode(), np.uint8).astype("<u2").tobytes(),
        "shards/val_0.bin": np.frombuffer(TEXT[5:].encode(), np.uint8).astype("<u2").tobytes(),
    },
}
OTHER_TEXTS = {"half", "zeros", "zeros at the end", "HTML", "list", "null", "NaN", "long number"}


@pytest.mark.parametrize("case", sample([f"{c} {d}" for c in CORPORA for d in DAMAGES]))
def test_a_damaged_corpus_is_named(tmp_path, monkeypatch, case):
    """Other bytes may be another text; what holds none, or cannot be read, is refused."""
    corpus, damage = case.split(" ", 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    paths = []
    for name, content in CORPORA[corpus].items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        paths.append(path)
    study = tmp_path / "study.toml"
    study.write_text(STUDY.replace("text.txt", corpus))
    code, _, err = call("list", study)
    assert code == 0, err
    DAMAGES[damage](paths[0])
    code, _, err = call("list", study)
    assert code in (0, 2), (case, err)
    if code == 2:
        assert "data.corpus" in err or paths[0].name in err, (case, err)
    else:
        assert damage in OTHER_TEXTS | {"binary", "Latin-1", "deep list", "deep table"}, case


@pytest.mark.parametrize("damage", sample(DAMAGES, n=3))
def test_a_damaged_cache_of_tokens_is_made_again(tmp_path, monkeypatch, damage):
    """Else ranks would fail, or count the bytes of tokens wrongly."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text(TEXT)
    study = tmp_path / "study.toml"
    study.write_text(STUDY)
    expected = call("list", study)
    assert expected[0] == 0
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        with restored(path):
            DAMAGES[damage](path)
            found = call("list", study)
            is_made_again = path.is_file() and path.read_bytes() == content
        assert is_made_again or path.parent.name != "tokens" or found[0] == 2, path
        assert found == expected or (found[0] == 2 and str(path) in found[2]), (path, found)
