"""A mixture may help on one corpus and hurt on another, which its mean does not show."""

import json

import pytest
from reported import written

from harness.analysis import dataset
from harness.analysis.corpora import measures

pytestmark = pytest.mark.usefixtures("no_figures")

MHA, GQA = "rope-mha-single", "rope-gqa2-single"
# Loss on each corpus by entry and seed; the mean by weight is 0.75 a + 0.25 b.
LOSSES = {
    (MHA, 0): (2.0, 3.0),
    (MHA, 1): (2.2, 3.2),
    (GQA, 0): (1.5, 3.5),
    (GQA, 1): (1.7, 3.6),
}


@pytest.fixture
def mixed(fake):
    """Two entries on a mixture, two seeds."""
    fake.axes = {"positional": ["rope"], "attention": ["mha", "gqa2"], "parallelism": ["single"]}
    fake.baseline, fake.seeds, fake.steps = {"attention": "mha"}, (0, 1), 4
    fake.write()
    for folder in (fake.root / "tiny").iterdir():
        if (folder / "spec.json").exists():
            plant(folder)
    return fake


def plant(folder, **changed):
    spec = json.loads((folder / "spec.json").read_text())
    mixture = [{"path": "a.txt", "weight": 3.0}, {"path": "b.bin", "weight": 1.0}]
    spec["launch"]["mixture"] = mixture
    spec["launch"]["val_tokens"] = [
        {"file": "a", "part": 0, "start": 0, "stop": 50, "sha256": "aa"},
        {"file": "b", "part": 1, "start": 0, "stop": 60, "sha256": "bb"},
    ]
    if changed:
        spec["launch"]["val_tokens"][0] |= changed
    (folder / "spec.json").write_text(json.dumps(spec))
    losses = LOSSES[spec["entry"], spec["seed"]]
    lines = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]
    for line in lines:
        is_last = line is lines[-1]
        line["by_corpus"] = [
            {"corpus": part["path"], "val_loss": loss if is_last else 9.0, "bits_per_byte": 1.0}
            for part, loss in zip(mixture, losses, strict=True)
        ]
    (folder / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def measured(fake, label):
    study = dataset.read(fake.store, "tiny")
    return measures(study, next(entry for entry in study.entries if entry.label == label))


def test_losses_are_means_of_the_last_evaluations(mixed):
    first, second = measured(mixed, MHA)
    assert (first.corpus, first.share, first.seeds) == ("a.txt", 0.75, [0, 1])
    assert (second.corpus, second.share) == ("b.bin", 0.25)
    assert first.val_loss.mean == pytest.approx(2.1)
    assert second.val_loss.mean == pytest.approx(3.1)
    assert first.val_loss_difference is None, "the baseline has no difference from itself"


def test_differences_are_paired_on_the_same_corpus(mixed):
    first, second = measured(mixed, GQA)
    assert first.val_loss_difference.mean == pytest.approx(-0.5)
    assert second.val_loss_difference.mean == pytest.approx(0.45)


def test_other_validation_tokens_are_not_compared(mixed):
    """The losses of a corpus that has changed are those of another text."""
    for folder in (mixed.root / "tiny").glob("*gqa2*"):
        plant(folder, sha256="other")
    first, second = measured(mixed, GQA)
    assert first.val_loss_difference is None
    assert second.val_loss_difference is not None


def test_the_report_has_the_losses_by_corpus(mixed):
    page, _, folder = written(mixed)
    section = page.split("## Loss by corpus")[1].split("\n## ")[0]
    row = next(line for line in section.splitlines() if "gqa2" in line and "a.txt" in line)
    assert "75.0 %" in row and "1.6000" in row and "-0.5000" in row
    assert (folder / "tables/corpora.csv").read_text().count("\n") == 5


def test_one_corpus_has_no_section(fake):
    page, _, folder = written(fake.write())
    assert "Loss by corpus" not in page
    assert not (folder / "tables/corpora.csv").exists()
