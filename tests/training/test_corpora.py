"""Published token files and mixtures train, with the same bits for the same tokens."""

import numpy as np
import pytest
import torch
from tiny_run import tiny_spec

from harness.data import corpus
from harness.distributed.process_group import DistributedContext
from harness.model.builder import ModelBuilder
from harness.model.initialization import init_parameters
from harness.results.records import CorpusPart, DataSettings
from harness.results.run import Run
from harness.training.evaluation import Evaluation
from harness.training.loop import train
from variants.base import ModelShape

TEXT = b"The quick brown fox jumps over the lazy dog, and then it jumps again. " * 30
OTHER = b"Pack my box with five dozen liquor jugs! How vexingly quick daft zebras jump. " * 30


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))


def with_corpus(folder, data, **settings):
    """Return the spec of a tiny run on a corpus."""
    found = corpus.prepare(data, folder, "study.toml")
    spec = tiny_spec(folder, **settings)
    np.save(folder / "bytes.npy", np.ones(256, np.int64))
    launch = {
        "train_tokens": found.train,
        "val_tokens": found.val,
        "mixture": found.mixture,
    }
    return spec.model_copy(
        update={
            "model": spec.model.model_copy(update={"vocab_size": 256}),
            "launch": spec.launch.model_copy(update=launch),
        }
    )


def curve(folder, name, spec, ranks):
    run = Run(folder / name)
    run.path.mkdir()
    train(run, spec, ranks)
    return run.steps().loss.tolist(), [line.val_loss for line in run.evals()], run.evals()


FORMATS = {  # magic and version of the header, and type
    "nanoGPT": (None, "<u2"),
    "llm.c and modded-nanogpt": ((20240520, 1), "<u2"),
    "llm.c, Llama 3": ((20240801, 7), "<u4"),
    "uint32": (None, "<u4"),
}


def test_published_token_files_train_with_the_same_bits(tmp_path, ranks):
    curves = []
    for name, (header, dtype) in FORMATS.items():
        folder = tmp_path / name
        (folder / "fineweb").mkdir(parents=True)
        for split, text in (("train_000001", TEXT), ("train_000002", OTHER), ("val_000000", TEXT)):
            tokens = np.frombuffer(text[::-1] if split[0] == "v" else text, np.uint8).astype(dtype)
            content = tokens.tobytes()
            if header is not None:
                numbers = np.zeros(256, "<i4")
                numbers[:3] = (*header, len(tokens))
                content = numbers.tobytes() + content
            (folder / f"fineweb/fineweb_{split}.bin").write_bytes(content)
        data = DataSettings(
            corpus="fineweb/*.bin",
            train="fineweb_train_*.bin",
            val="fineweb_val_*.bin",
            token_dtype="uint32" if name == "uint32" else "uint16",
        )
        curves.append(curve(folder, "run", with_corpus(folder, data, steps=3), ranks)[:2])
    assert all(other == curves[0] for other in curves[1:])
    assert len(curves[0][0]) == 3


@pytest.fixture
def mixture(tmp_path):
    (tmp_path / "a.txt").write_bytes(TEXT)
    np.frombuffer(OTHER * 3, np.uint8).astype("<u2").tofile(tmp_path / "b.bin")
    parts = [CorpusPart(path="a.txt", weight=3), CorpusPart(path="b.bin", weight=1)]
    return with_corpus(tmp_path, DataSettings(corpus=parts), steps=4, eval_every=2)


def test_the_validation_loss_of_a_mixture_is_the_mean_by_weight(tmp_path, mixture, ranks):
    """Of the loss on each corpus, as it is without the other."""
    evals = curve(tmp_path, "mixture", mixture, ranks)[2]
    for line in evals:
        first, second = line.by_corpus
        assert [first.corpus, second.corpus] == ["a.txt", "b.bin"]
        expected = 0.75 * first.val_loss + 0.25 * second.val_loss
        assert line.val_loss == pytest.approx(expected, rel=1e-9)
        assert abs(first.val_loss - second.val_loss) > 1e-4
    for part in evals[0].by_corpus:
        alone = with_corpus(tmp_path, DataSettings(corpus=part.corpus), steps=1)
        losses = curve(tmp_path, f"alone {part.corpus}", alone, ranks)[1]
        assert losses[0] == pytest.approx(part.val_loss, rel=1e-6)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_losses_by_corpus_do_not_depend_on_the_world_size(tmp_path, mixture, world_size):
    class Rank(DistributedContext):
        def sum(self, *values):
            self.__dict__["sums"] = values
            return [1.0 for _ in values]

    shape = ModelShape(**mixture.model.model_dump())
    model = ModelBuilder(shape, mixture.axes, []).model().to_empty(device="cpu")
    init_parameters(model, 0)

    def total(n_ranks):
        sums = []
        for rank in range(n_ranks):
            context = Rank(rank, n_ranks, torch.device("cpu"))
            Evaluation(Run(tmp_path), mixture, context)(model, step=0, train_s=0.0)
            sums.append(context.sums)
        return np.sum(sums, axis=0).tolist()

    assert total(world_size) == pytest.approx(total(1), rel=1e-6)


def test_one_corpus_records_no_losses_by_corpus(tmp_path, ranks):
    (tmp_path / "a.txt").write_bytes(TEXT)
    spec = with_corpus(tmp_path, DataSettings(corpus="a.txt"), steps=1)
    assert all(line.by_corpus == [] for line in curve(tmp_path, "run", spec, ranks)[2])
