"""If these failed, a study would train a ladder on which no scaling law can be fitted."""

from pathlib import Path

import pytest

from harness.config import load
from harness.errors import UserError
from harness.results.records import LadderSettings, VariantChoice
from harness.study.ladder import check_ladder


def size(label, **settings):
    options = {key.replace("__", "."): value for key, value in settings.items()}
    return VariantChoice(name="size", label=label, options=options)


SIZES = [size(f"S{n}", model__n_layer=n, train__steps=10 * n) for n in (1, 2, 3)]
ATTENTION = [VariantChoice(name=name, label=name, options={}) for name in ("mha", "mqa", "mla")]


def problems(sizes=SIZES, attention=ATTENTION[:2], compare=("attention",), axis="size"):
    entries = [{"attention": a, "size": s} for a in attention for s in sizes]
    ladder = LadderSettings(axis=axis)
    return [str(problem) for problem in check_ladder("s.toml", ladder, compare, entries)]


def test_a_ladder_of_three_sizes_is_allowed():
    assert problems() == []
    assert problems(attention=ATTENTION[:1], compare=None) == []
    assert list(check_ladder("s.toml", None, None, [{"size": SIZES[0]}])) == []


CASES = {
    "two sizes": (
        {"sizes": SIZES[:2]},
        "ladder.axis: 'size' has 2 of the 3 sizes or more that a scaling law needs",
    ),
    "sizes that differ in no size": (
        {"sizes": [size(f"lr{n}", train__lr=n / 1000) for n in (1, 2, 3)]},
        "ladder.axis: 'size' has 1 of the 3 sizes",
    ),
    "levels of equal size": (
        {"sizes": [*SIZES[:2], size("again", model__n_layer=2, train__steps=20)]},
        "ladder.axis: 'size' has 2 of the 3 sizes",
    ),
    "unknown axis": ({"axis": "sizes"}, "ladder.axis: 'sizes': no such axis; did you mean 'size'?"),
    "axis of variants": (
        {"axis": "attention", "attention": ATTENTION, "compare": None},
        "ladder.axis: 'attention' is an axis of variants; allowed: an axis that varies settings "
        "(size)",
    ),
    "compared sizes": (
        {"compare": ["attention", "size"]},
        "study.compare[1]: 'size' is the ladder's axis: sizes are fitted, not compared; remove it",
    ),
    "asked axes missing": (
        {"compare": None},
        "study.compare: missing: a study with a ladder names the axes that it asks about; allowed: "
        "attention",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_unfit_ladder_is_refused_with_its_place(case):
    arguments, expected = CASES[case]
    messages = problems(**arguments)
    assert any(expected in message for message in messages), messages
    assert all(message.startswith("s.toml: ") for message in messages)


SHIPPED = Path(__file__).parents[2] / "studies/ladder.toml"


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Return a copy of the shipped study that reads a text next to it."""
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("To be, or not to be, that is the question.\n" * 9000)
    path = tmp_path / "ladder.toml"
    path.write_text(SHIPPED.read_text().replace('"tinyshakespeare"', '"text.txt"'))
    return path


def test_the_shipped_ladder_trains_both_entries_on_equal_tokens(shipped):
    study = load(shipped)
    assert study.ladder.axis == "size" and study.compare == ["mlp"]
    tokens = {}
    for spec in study.runs:
        tokens.setdefault(spec.labels["size"], set()).add(spec.train.total_tokens)
        non_embedding = 12 * spec.model.n_layer * spec.model.n_embd**2
        assert spec.train.total_tokens == pytest.approx(20 * non_embedding, rel=0.01)
    assert len(study.runs) == 16 and len(tokens) == 4
    assert all(len(amounts) == 1 for amounts in tokens.values())
    record = study.launch_record("run", study.runs, None)
    assert record.ladder == study.ladder


def test_an_unfit_ladder_of_a_study_file_starts_nothing(shipped):
    text = shipped.read_text()
    for old, new, expected in (
        ('axis = "size"', 'axis = "sizes"', "ladder.axis: 'sizes': no such axis; did you mean"),
        ('axis = "size"', 'axs = "size"', "ladder.axs: unknown key; did you mean 'axis'?"),
        ("project_to = 1.5e13", "project_to = 0.0", "ladder.project_to: 0.0: input should be"),
        ('"shared"', '"same"', "ladder.irreducible: 'same': input should be 'shared' or"),
        ('compare = ["mlp"]', 'compare = ["size"]', "'size' is the ladder's axis"),
    ):
        assert old in text
        shipped.write_text(text.replace(old, new))
        with pytest.raises(UserError) as error:
            load(shipped)
        assert any(expected in str(problem) for problem in error.value.problems), expected
