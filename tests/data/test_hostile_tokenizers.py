"""A damaged file in tiktoken's cache is named, with what to do, and nothing waits for it."""

import inspect
from pathlib import Path

import pytest
import tiktoken
import tiktoken.load
import tiktoken_ext.openai_public as published
from hostile import DAMAGES, ends_soon

from harness.data import tokenizers
from harness.data.tokenizers import FILES, NAMES, Tokenizer
from harness.errors import UserError

CASES = [damage for damage in DAMAGES if damage != "missing"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache without a network; the files of `gpt2` are replaced by small ones."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})

    def refuse(address):
        raise ConnectionError(address)

    monkeypatch.setattr(tiktoken.load, "read_file", refuse)
    return tmp_path


def test_the_files_are_those_of_tiktoken():
    assert FILES.keys() == {*NAMES} - {"bytes"}
    for name, files in FILES.items():
        source = inspect.getsource(getattr(published, name))
        for address, sha256 in files.items():
            assert address in source and sha256 in source, address


@pytest.mark.parametrize("damage", CASES)
@pytest.mark.parametrize("name", ["gpt2", "cl100k_base"])
def test_a_damaged_file_is_named(cache, damage, name):
    address = next(iter(FILES[name]))
    path = cache / tokenizers.hashlib.sha1(address.encode()).hexdigest()
    path.write_bytes(b"#version: 0.2\n" + b"a b\n" * 100)
    DAMAGES[damage](path)
    with ends_soon(damage), pytest.raises(UserError) as error:
        Tokenizer(name, "data.tokenizer")
    message = str(error.value)
    assert message.startswith(f"data.tokenizer: '{name}': ") and str(path) in message
    assert "remove it" in message or "TIKTOKEN_CACHE_DIR" in message


def test_a_cache_that_is_a_file_is_no_cache(cache, monkeypatch):
    (cache / "file").write_text("x")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(Path(cache, "file")))
    with pytest.raises(UserError, match="'gpt2': "):
        Tokenizer("gpt2")
