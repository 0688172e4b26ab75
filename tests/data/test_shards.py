"""Token files of another type, alphabet or length train on numbers that are not the text."""

import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.data import corpus, shards, token_files
from harness.data.batches import Tokens
from harness.data.formats import MAGIC
from harness.errors import UserError
from harness.results.records import DataSettings, TokenSlice

VOCAB = {"bytes": 256, "gpt2": 50257}
TEXT = "O Romeo, Romeo! wherefore art thou Romeo?\nDeny thy father and refuse thy name;\n" * 60


class FakeTokenizer:
    """A tokenizer that is only its name and size, for tests without GPT-2's files."""

    def __init__(self, name, place=""):
        self.name = name
        self.vocab_size = VOCAB[name]

    def boundary(self, text, position):
        return position

    def encode(self, text):
        return np.frombuffer(text.encode(), np.uint8).astype("<u2")

    def byte_lengths(self, folder):
        return folder / f"{self.name}.npy"


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(corpus, "Tokenizer", FakeTokenizer)


def tokens_of(tokenizer, n=None):
    """Return tokens with frequencies like those of a text."""
    if tokenizer == "bytes":
        return np.frombuffer(TEXT.encode(), np.uint8)[:n]
    ranks = np.random.default_rng(0).zipf(1.2, 60_000) - 1
    return ranks[ranks < VOCAB["gpt2"]][: n or 20_000]


def prepare(folder, tokens, tokenizer="bytes", name="all.bin", **data):
    content = tokens if isinstance(tokens, bytes) else tokens.tobytes()
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    settings = DataSettings(corpus=name, tokenizer=tokenizer, **data)
    return corpus.prepare(settings, folder, "study.toml")


def read(slices):
    parts = [np.fromfile(part.file, part.dtype)[part.start : part.stop] for part in slices]
    return np.concatenate(parts)


# -- types -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", VOCAB)
@pytest.mark.parametrize("n", [200, None], ids=["short", "long"])
@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("order", "<>")
def test_one_text_in_every_type_is_read_right_or_refused(tmp_path, order, kind, n, tokenizer):
    tokens = tokens_of(tokenizer, n)
    if kind == "u1":
        tokens = tokens_of("bytes", n)
    if kind in ("i2", "f2"):
        tokens = tokens.astype(np.int64) % 2048
    with np.errstate(over="ignore"):
        written = tokens.astype(order + kind)
    for token_dtype, kinds in (("uint16", ("u2", "i2")), ("uint32", ("u4", "i4"))):
        if order == "<" and kind in kinds:
            found = prepare(tmp_path, written, tokenizer, token_dtype=token_dtype)
            assert read(found.train + found.val).tolist() == tokens.tolist()
            assert {part.dtype for part in found.train + found.val} == {token_dtype}
        else:
            with pytest.raises(UserError, match=r"all\.bin: holds "):
                prepare(tmp_path, written, tokenizer, token_dtype=token_dtype)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(">i4", "big-endian int32"), ("<u8", "int64"), ("<f4", "float32"), (">f8", "big-endian fl")],
)
def test_the_type_and_the_conversion_are_named(tmp_path, kind, name):
    with pytest.raises(UserError, match=rf"holds {name}.* values.*astype\('<u2'\)"):
        prepare(tmp_path, tokens_of("gpt2").astype(kind), "gpt2")


@pytest.mark.parametrize(
    ("kind", "token_dtype", "remedy"),
    [("<u4", "uint16", 'set token_dtype = "uint32"'), ("<u2", "uint32", "remove token_dtype")],
)
def test_the_setting_of_the_type_is_named(tmp_path, kind, token_dtype, remedy):
    with pytest.raises(UserError, match=remedy):
        prepare(tmp_path, tokens_of("gpt2").astype(kind), "gpt2", token_dtype=token_dtype)


@pytest.mark.parametrize("text", [TEXT, "Déjà vu, naïve café. " * 400, "Привет, мир. " * 600])
def test_a_text_that_is_named_bin_is_refused(tmp_path, text):
    """Pairs of letters are valid tokens of GPT-2."""
    with pytest.raises(UserError, match="text or 8-bit values"):
        prepare(tmp_path, text.encode() + b" " * (len(text.encode()) % 2), "gpt2")


@pytest.mark.parametrize("high", [1000, 20_000, 50_257])
def test_uniform_tokens_are_not_mistaken(tmp_path, high):
    tokens = np.random.default_rng(0).integers(0, high, 100_000, dtype=np.uint16)
    found = prepare(tmp_path, tokens, "gpt2")
    assert corpus.Corpus.n_tokens(found.train) == 90_000


@settings(
    deadline=None,
    max_examples=60,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    start=st.sampled_from([b"", b"{", b"PK", *MAGIC, (20240520).to_bytes(4, "little")]),
    content=st.binary(max_size=3000) | st.text(max_size=2000).map(str.encode),
    name=st.sampled_from(["a.bin", "a.txt", "a"]),
    tokenizer=st.sampled_from(sorted(VOCAB)),
)
def test_any_file_is_refused_or_holds_tokens(tmp_path, start, content, name, tokenizer):
    """A traceback names no file, and a token outside of the vocabulary fails the run."""
    (tmp_path / name).write_bytes(start + content)
    try:
        found = corpus.prepare(DataSettings(corpus=name, tokenizer=tokenizer), tmp_path, "s.toml")
    except UserError:
        return
    assert read(found.train + found.val).max(initial=0) < VOCAB[tokenizer]


# -- headers ---------------------------------------------------------------------------------------

LLMC = {"uint16": (20240520, 1), "uint32": (20240801, 7)}  # dev/data/data_common.py of llm.c


def with_header(tokens, *numbers, dtype="<i4", size=1024, token_dtype="<u2"):
    header = np.zeros(size // 4, dtype)
    header[: len(numbers)] = numbers
    return header.tobytes() + tokens.astype(token_dtype).tobytes()


def as_published(tokens, token_dtype):
    return with_header(tokens, *LLMC[token_dtype], len(tokens), token_dtype=token_dtype)


@pytest.mark.parametrize("token_dtype", LLMC)
def test_the_header_of_llm_c_is_not_read_as_tokens(tmp_path, token_dtype):
    """The header decides the type, whatever type the study states for files without one."""
    tokens = tokens_of("gpt2")
    folder = tmp_path / "shards"
    folder.mkdir()
    for name, part in (("train_000001", tokens[:15_000]), ("val_000000", tokens[15_000:])):
        (folder / f"x_{name}.bin").write_bytes(as_published(part, token_dtype))
    for stated in LLMC:
        data = DataSettings(corpus="shards", tokenizer="gpt2", token_dtype=stated)
        found = corpus.prepare(data, tmp_path, "study.toml")
        assert read(found.train).tolist() == tokens[:15_000].tolist()
        assert read(found.val).tolist() == tokens[15_000:].tolist()
        windows, _ = Tokens(found.val).windows(np.array([0]), 100)
        assert windows[0].tolist() == tokens[15_000:15_100].tolist()
        shards.verify(found.train + found.val)
        assert found.note == "shards: the header of llm.c is skipped in 2 token files"


@pytest.mark.parametrize("token_dtype", LLMC)
def test_one_file_with_a_header_is_split_after_it(tmp_path, token_dtype):
    tokens = tokens_of("gpt2", 1000)
    found = prepare(tmp_path, as_published(tokens, token_dtype), "gpt2")
    assert read(found.train).tolist() == tokens[:900].tolist()
    assert read(found.val).tolist() == tokens[900:].tolist()


def test_the_same_bytes_of_another_type_are_another_corpus(tmp_path):
    """The runs of one would be taken for runs of the other."""
    content = tokens_of("bytes").astype("<u4").tobytes()
    found = prepare(tmp_path, content, name="a.bin", token_dtype="uint32")
    slices = [part.model_copy(update={"dtype": "uint16"}) for part in found.train]
    assert corpus.content_hash(slices, []) != found.sha256


@pytest.mark.parametrize("token_dtype", LLMC)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda magic, version, n: (magic, version + 1, n), "unknown version"),
        (lambda magic, version, n: (magic, version, n + 1), "states 20001 tokens"),
        (lambda magic, version, n: (magic + 2, version, n), "unknown header"),
    ],
)
def test_a_damaged_header_is_refused_by_name(tmp_path, token_dtype, damage, message):
    tokens = tokens_of("gpt2", 20_000)
    numbers = damage(*LLMC[token_dtype], len(tokens))
    with pytest.raises(UserError, match=rf"all\.bin: .*{message}"):
        prepare(tmp_path, with_header(tokens, *numbers, token_dtype=token_dtype), "gpt2")


@pytest.mark.parametrize("token_dtype", LLMC)
@pytest.mark.parametrize("n_bytes", [1, 2, 3, 500, 1023])
def test_a_truncated_file_is_refused(tmp_path, token_dtype, n_bytes):
    content = as_published(tokens_of("gpt2"), token_dtype)
    for cut in (content[:n_bytes], content[:-n_bytes]):
        if len(cut) >= 4:
            with pytest.raises(UserError, match=r"truncated|states 20000 tokens"):
                prepare(tmp_path, cut, "gpt2")


@pytest.mark.parametrize("token_dtype", LLMC)
def test_a_header_without_tokens_is_refused(tmp_path, token_dtype):
    content = as_published(tokens_of("gpt2", 1)[:0], token_dtype)
    with pytest.raises(UserError, match=r"all\.bin: has a header and no tokens"):
        prepare(tmp_path, content, "gpt2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (with_header(tokens_of("gpt2"), 20240520, 1, 20_000, dtype=">i4"), "big-endian"),
        (with_header(tokens_of("gpt2"), 20240522, 1, 20_000), "unknown header .*20240522"),
        (with_header(tokens_of("gpt2"), 77, 1), "unknown header .*77, 1, 0"),
        (with_header(np.arange(70_000) % 50_000, 1, 70_000, size=16), "unknown header"),
        (with_header(np.arange(70_000) % 50_000, 0, 70_000, dtype=">i4", size=64), "unknown head"),
    ],
)
def test_an_unknown_header_is_refused_by_name(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        prepare(tmp_path, content, "gpt2")


# -- alphabets -------------------------------------------------------------------------------------


def characters(n):
    return np.random.default_rng(0).integers(0, n, 4000).astype("<u2")


@pytest.mark.parametrize("n_characters", [2, 27, 65, 127, 128, 200, 256, 1000, 5000])
@pytest.mark.parametrize("tokenizer", VOCAB)
def test_tokens_beside_a_meta_pkl_are_refused(tmp_path, n_characters, tokenizer):
    """Characters are valid tokens, and samples of such a model print other characters."""
    alphabet = {chr(0x4E00 + i): i for i in range(n_characters)}
    meta = {"vocab_size": n_characters, "stoi": alphabet}
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta))
    with pytest.raises(UserError, match=r"meta\.pkl: describes"):
        prepare(tmp_path, characters(n_characters), tokenizer)


@pytest.mark.parametrize(
    ("tokenizer", "n_characters"),
    [*(("bytes", n) for n in (2, 27, 65)), *(("gpt2", n) for n in (2, 27, 65, 128, 256))],
)
def test_character_tokens_alone_are_refused(tmp_path, tokenizer, n_characters):
    with pytest.raises(UserError, match=r"control codes|below 256"):
        prepare(tmp_path, characters(n_characters), tokenizer)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_meta_pkl_is_never_executed(tmp_path):
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(Evil(tmp_path / "it-ran")))
    with pytest.raises(UserError, match=r"meta\.pkl: describes"):
        prepare(tmp_path, tokens_of("bytes").astype("<u2"))
    assert not (tmp_path / "it-ran").exists()


# -- the whole file --------------------------------------------------------------------------------


@pytest.mark.parametrize("has_header", [False, True], ids=["plain", "header"])
@pytest.mark.parametrize("token_dtype", LLMC)
@pytest.mark.parametrize("position", [0, 1, 4095, 4096, 25_000, 49_998, 49_999])
def test_an_invalid_token_is_found_at_any_position(
    tmp_path, monkeypatch, position, token_dtype, has_header
):
    for module in (shards, token_files):
        monkeypatch.setattr(module, "CHUNK_BYTES", 8192)
    tokens = np.resize(tokens_of("gpt2"), 50_000).astype(token_dtype)
    tokens[position] = 60_000
    message = f"holds token 60000 at position {position}, the tokenizer 'gpt2' has 50257"
    content = as_published(tokens, token_dtype) if has_header else tokens
    with pytest.raises(UserError, match=message):
        prepare(tmp_path, content, "gpt2", token_dtype=token_dtype)


@pytest.mark.parametrize("position", [0, 4096, 25_000, 49_999])
def test_a_change_at_any_position_is_another_corpus(tmp_path, monkeypatch, position):
    monkeypatch.setattr(shards, "CHUNK_BYTES", 8192)
    tokens = np.resize(tokens_of("gpt2"), 50_000).astype("<u2")
    first = prepare(tmp_path, tokens, "gpt2")
    shards.verify(first.train + first.val)
    tokens[position] += 1
    second = prepare(tmp_path, tokens, "gpt2")
    assert second.sha256 != first.sha256
    with pytest.raises(UserError, match=r"all\.bin: has changed since the run was planned"):
        shards.verify(first.train + first.val)


def test_an_unchanged_file_is_hashed_once(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1e12)
    first = prepare(tmp_path, tokens_of("bytes").astype("<u2"))
    monkeypatch.setattr(shards, "CHUNK_BYTES", None)
    shards.verify(first.train + first.val)
    os.utime(tmp_path / "all.bin", ns=(0, 0))  # another time: it is read again
    monkeypatch.setattr(shards, "CHUNK_BYTES", 1 << 20)
    shards.verify(first.train + first.val)


def test_a_file_changed_a_moment_ago_is_hashed_again(tmp_path, monkeypatch):
    """Within the resolution of the times, a second change would not show."""
    monkeypatch.setattr(shards, "SETTLED_S", 3600.0)
    file = tmp_path / "tokens.bin"
    file.write_bytes(b"aa")
    shards.scan(file)
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_without_a_cache_a_file_is_still_checked(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file, so that no folder can be created in its place")
    monkeypatch.setattr(time, "time", lambda: 1e12)
    file = tmp_path / "tokens.bin"
    file.write_bytes(b"aa")
    assert shards.scan(file).max_token == 0x6161


def test_a_damaged_scan_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1e12)
    file = tmp_path / "tokens.bin"
    file.write_bytes(b"aa")
    first = shards.scan(file)
    (cached,) = (tmp_path / "cache").rglob("*.json")
    for content in ("", "{}", '{"path": 1}', cached.read_text().replace('"size": 2', '"size": 3')):
        cached.write_text(content)
        assert shards.scan(file) == first


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "cannot be read"),
        (lambda file: file.write_bytes(file.read_bytes()[:-2]), "has 3 tokens, the run reads 4"),
        (lambda file: file.write_bytes(file.read_bytes() + b"ab"), "has changed"),
        (lambda file: file.write_bytes(b"bbaabbaa"), "has changed"),
    ],
)
def test_a_run_names_the_token_file_that_changed(tmp_path, damage, message):
    file = tmp_path / "tokens.bin"
    file.write_bytes(b"aabbaabb")
    tokens = TokenSlice(file=str(file), start=0, stop=4, sha256=shards.scan(file).sha256)
    shards.verify([tokens])
    damage(file)
    with pytest.raises(UserError, match=message):
        shards.verify([tokens])


# -- splits ----------------------------------------------------------------------------------------


def test_an_empty_file_is_refused(tmp_path):
    """It cannot be mapped, so that the run would fail."""
    with pytest.raises(UserError, match=r"all\.bin: is empty"):
        prepare(tmp_path, b"")


@pytest.mark.parametrize("link", [True, False])
def test_validation_on_a_training_file_is_refused(tmp_path, link):
    folder = tmp_path / "shards"
    folder.mkdir()
    content = tokens_of("bytes").astype("<u2").tobytes()
    (folder / "train.bin").write_bytes(content)
    if link:
        (folder / "val.bin").symlink_to("train.bin")
    else:
        (folder / "val.bin").write_bytes(content)
    with pytest.raises(UserError, match="training and validation have the same content"):
        corpus.prepare(DataSettings(corpus="shards"), tmp_path, "study.toml")


def test_a_file_of_both_splits_is_refused(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for name in ("train_val.bin", "train.bin"):
        (folder / name).write_bytes(tokens_of("bytes").astype("<u2").tobytes())
    with pytest.raises(UserError, match=r"train_val\.bin names both train and val"):
        corpus.prepare(DataSettings(corpus="shards"), tmp_path, "study.toml")


def test_moving_a_file_to_the_other_split_is_another_corpus(tmp_path):
    hashes = set()
    for names in (("train_0", "train_1", "val_0"), ("train_0", "val_0", "val_1")):
        folder = tmp_path / names[1]
        folder.mkdir()
        for i, name in enumerate(names):
            tokens = tokens_of("bytes")[i:].astype("<u2")
            (folder / f"{name}.bin").write_bytes(tokens.tobytes())
        found = corpus.prepare(DataSettings(corpus=names[1]), tmp_path, "study.toml")
        hashes.add(found.sha256)
    assert len(hashes) == 2
