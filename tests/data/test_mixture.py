"""A mixture whose proportions are not the stated ones answers another question."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data import corpus
from harness.data.batches import Batches, Tokens, evaluation_offsets, mixture_evaluation_offsets
from harness.data.mixture import mix
from harness.errors import UserError
from harness.results.records import CorpusPart, DataSettings, TokenSlice

quick = settings(max_examples=40)
SEQ_LEN = 8
LENGTHS = (40, 400, 90)  # tokens of each corpus; of the second in two files
STARTS = np.cumsum((0, *LENGTHS))


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """Three corpora, whose tokens count up over all of them."""
    folder = tmp_path_factory.mktemp("tokens")
    slices = []
    for part, bounds in ((0, (0, 40)), (1, (40, 200)), (1, (200, 440)), (2, (440, 530))):
        file = folder / f"{bounds[0]}.bin"
        np.arange(*bounds, dtype=np.uint16).tofile(file)
        stop = bounds[1] - bounds[0]
        slices.append(TokenSlice(file=str(file), part=part, start=0, stop=stop))
    return Tokens(slices)


def batches(tokens, weights, n_sequences=24, seed=0, **changes):
    return Batches(tokens, SEQ_LEN, n_sequences, seed, weights=weights, **changes)


def corpora_of(offsets):
    return np.searchsorted(STARTS, offsets, side="right") - 1


weight_lists = st.lists(st.floats(0.05, 10), min_size=3, max_size=3)


@quick
@given(weights=weight_lists, seed=st.integers(0, 100))
def test_proportions_hold_within_sampling_error(tokens, weights, seed):
    n = 4000
    offsets = batches(tokens, weights, n, seed).offsets(3)
    expected = np.array(weights) / sum(weights)
    found = np.bincount(corpora_of(offsets), minlength=3) / n
    standard_error = np.sqrt(expected * (1 - expected) / n)
    assert (np.abs(found - expected) < 5 * standard_error).all()


@quick
@given(weights=weight_lists, step=st.integers(0, 1000))
def test_no_window_crosses_from_one_corpus_to_another(tokens, weights, step):
    source = batches(tokens, weights)
    windows = source.tokens.windows(source.offsets(step), SEQ_LEN)
    corpora = [corpora_of(part.numpy()) for part in windows]
    assert (np.concatenate(corpora, axis=1) == corpora[0][:, :1]).all()


def test_windows_of_each_corpus_begin_at_every_offset(tokens):
    offsets = batches(tokens, (1, 1, 1), 30_000).offsets(0)
    ends = STARTS[1:] - SEQ_LEN
    expected = np.concatenate([np.arange(*pair) for pair in zip(STARTS, ends, strict=False)])
    assert np.unique(offsets).tolist() == expected.tolist()


@quick
@given(
    weights=weight_lists,
    step=st.integers(0, 10_000),
    offset=st.integers(0, 10_000),
    world_size=st.sampled_from([1, 2, 3, 4, 6]),
)
def test_the_corpus_depends_only_on_seed_and_step(tokens, weights, step, offset, world_size):
    """Equal for every world size and micro-batch, on resume, and after other weights' steps."""
    whole = batches(tokens, weights)
    (all_tokens, _), *_ = whole.micro_batches(step + offset, 0, 1, 24)
    resumed = batches(tokens, weights, offset_steps=offset)
    ranks = [resumed.micro_batches(step, rank, world_size, 2) for rank in range(world_size)]
    found = [inputs for micro_batches in ranks for inputs, _ in micro_batches]
    assert np.concatenate(found).tolist() == all_tokens.tolist()
    scaled = batches(tokens, [3 * weight for weight in weights]).offsets(step)
    assert np.mean(scaled == whole.offsets(step)) > 0.9  # but for rounding


def test_batches_of_a_mixture_are_those_of_earlier_results(tokens):
    """If they change, a resumed run gets other data, and new seeds do not pair with old ones."""
    offsets = batches(tokens, (3, 1, 2), seed=3).offsets(11)
    digest = hashlib.sha256(offsets.astype("<i8").tobytes()).hexdigest()
    assert digest == "b71af110c4a649aaef38faacf9b8d48927ec7929457d4dc2aaaa7fd3029f99ea"


def test_one_corpus_has_the_batches_of_no_mixture(tokens):
    plain = Batches(tokens, SEQ_LEN, 24, 5)
    assert batches(tokens, [0.3], seed=5).offsets(7).tolist() == plain.offsets(7).tolist()


# -- validation ------------------------------------------------------------------------------------

HALVES = [slice(None), slice(1, None, 2), slice(0, None, 2)]


@quick
@given(
    weights=weight_lists,
    eval_tokens=st.none() | st.integers(1, 2000),
    half=st.sampled_from(HALVES),
)
def test_each_corpus_has_its_weight_in_the_validation_loss(tokens, weights, eval_tokens, half):
    """Not the share of its validation tokens, which a longer file would raise."""
    shares = [weight / sum(weights) for weight in weights]
    offsets, window_weights = mixture_evaluation_offsets(tokens, shares, SEQ_LEN, eval_tokens, half)
    assert window_weights.sum() == pytest.approx(len(offsets))
    sums = np.bincount(corpora_of(offsets), window_weights, minlength=3)
    assert sums / len(offsets) == pytest.approx(shares)
    assert (corpora_of(offsets) == corpora_of(offsets + SEQ_LEN)).all()
    assert len(set(offsets.tolist())) == len(offsets)


@quick
@given(eval_tokens=st.none() | st.integers(1, 2000), half=st.sampled_from(HALVES))
def test_one_corpus_has_the_windows_of_no_mixture(tmp_path_factory, eval_tokens, half):
    file = tmp_path_factory.mktemp("one") / "a.bin"
    np.arange(500, dtype=np.uint16).tofile(file)
    one = Tokens([TokenSlice(file=str(file), start=0, stop=500)])
    offsets, weights = mixture_evaluation_offsets(one, [1.0], SEQ_LEN, eval_tokens, half)
    assert offsets.tolist() == evaluation_offsets(500, SEQ_LEN, eval_tokens)[half].tolist()
    assert (weights == 1).all()


# -- the corpus ------------------------------------------------------------------------------------


def write(folder):
    (folder / "a.txt").write_text("Some text, and some more of it. " * 40)
    np.frombuffer(b"Other text in tokens. " * 60, np.uint8).astype("<u2").tofile(folder / "b.bin")


def prepare(folder, *parts, **data):
    table = [CorpusPart(**part) for part in parts]
    return corpus.prepare(DataSettings(corpus=table, **data), folder, "study.toml")


A = {"path": "a.txt", "weight": 3}
B = {"path": "b.bin", "weight": 1}


def test_a_mixture_holds_all_its_corpora(tmp_path):
    write(tmp_path)
    found = prepare(tmp_path, A, B)
    assert found.name == "0.75 a.txt + 0.25 b.bin"
    assert found.mixture == [CorpusPart(**A), CorpusPart(**B)]
    assert [part.part for part in found.train + found.val] == [0, 1, 0, 1]
    first, second = found.parts()
    alone = corpus.prepare(DataSettings(corpus="b.bin"), tmp_path, "study.toml")
    for split in ("train", "val"):
        expected = [part.model_copy(update={"part": 1}) for part in getattr(alone, split)]
        assert getattr(second, split) == expected
    assert (first.name, second.name) == ("a.txt", "b.bin")
    assert [source.file for source in found.sources] == [
        str(tmp_path / name) for name in ("a.txt", "b.bin")
    ]


def test_the_hash_covers_content_weights_and_order(tmp_path):
    write(tmp_path)
    hashes = [
        prepare(tmp_path, A, B).sha256,
        prepare(tmp_path, A, B | {"weight": 2}).sha256,
        prepare(tmp_path, B, A).sha256,
    ]
    (tmp_path / "a.txt").write_text("Some text, and some more of it. " * 41)
    hashes.append(prepare(tmp_path, A, B).sha256)
    assert len(set(hashes)) == 4
    (tmp_path / "a.txt").rename(tmp_path / "c.txt")
    scaled = prepare(tmp_path, {"path": "c.txt", "weight": 6}, B | {"weight": 2})
    assert scaled.sha256 == hashes[-1]


def test_a_mixture_of_one_corpus_is_that_corpus(tmp_path):
    write(tmp_path)
    assert prepare(tmp_path, A) == corpus.prepare(DataSettings(corpus="a.txt"), tmp_path, "s.toml")


def test_a_corpus_has_its_own_settings_or_the_common_ones(tmp_path):
    rows = '{"text": "wrong", "body": "One document of many. "}\n' * 60
    (tmp_path / "a.jsonl").write_text(rows)
    (tmp_path / "b.jsonl").write_text(rows.replace("One", "Another").replace("body", "content"))
    own = {"path": "b.jsonl", "weight": 1, "text_column": "content"}
    found = prepare(tmp_path, {"path": "a.jsonl", "weight": 1}, own, text_column="body")
    for part, start in zip(found.train, ("One doc", "Another"), strict=True):
        tokens = np.fromfile(part.file, part.dtype)
        assert bytes(tokens[:7].astype(np.uint8)).decode() == start


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([A, A], r"corpus\[1\]\.path: 'a.txt' and 'a.txt' have the same content; name it once"),
        ([A, B, A | {"path": "c.txt"}], r"corpus\[2\]\.path: 'a.txt' and 'c.txt' have the same"),
        ([A | {"path": "x"}, B | {"path": "y"}], r"\[0\]\.path: 'x': no .*\n.*\[1\]\.path: 'y'"),
        ([A | {"train": "a*", "val": "b*"}, B], r"corpus\[0\]\.path: 'a.txt' is one file"),
        (
            [{"path": "d", "weight": 1}, {"path": "d/val.bin", "weight": 1}],
            r"corpus\[1\]\.path: 'd/val.bin' and 'd': training files of the first are validation",
        ),
        (
            [{"path": "d", "weight": 1, "train": "t*"}, B],
            r"corpus\[0\]\.val: missing; both train and val",
        ),
        (
            [{"path": "synthetic", "weight": 1, "train": "t*", "val": "v*"}, B],
            r"corpus\[0\]\.path: 'synthetic' has one text",
        ),
    ],
)
def test_an_unclear_mixture_is_refused(tmp_path, parts, message):
    write(tmp_path)
    (tmp_path / "c.txt").write_bytes((tmp_path / "a.txt").read_bytes())
    (tmp_path / "d").mkdir()
    for i, name in enumerate(("train", "val")):
        (np.arange(300) % (20 + i) + 97).astype("<u2").tofile(tmp_path / f"d/{name}.bin")
    with pytest.raises(UserError, match=message):
        prepare(tmp_path, *parts)


def test_the_entropy_of_one_corpus_is_not_that_of_a_mixture(tmp_path):
    write(tmp_path)
    found = corpus.prepare(DataSettings(corpus="a.txt"), tmp_path, "study.toml")
    other = replace(found, sha256="other", entropy=0.5, val=[])
    assert mix([other, found], [CorpusPart(**A), CorpusPart(**B)], "").entropy is None
