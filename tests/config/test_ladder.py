"""If these failed, a study would train a ladder on which no scaling law can be fitted."""

import pytest

from harness.config.ladder import check_ladder
from harness.results.records import LadderSettings, VariantChoice


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
