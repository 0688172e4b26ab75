"""If these failed, two candidates would look the same, or one would change its colour."""

from harness.analysis import dataset
from harness.analysis.summary import summarize
from harness.report.charts import style
from harness.report.charts.style import choose_style


def read(fake):
    return dataset.read(fake.write().store, "tiny")


def test_a_colour_per_candidate_and_a_black_baseline(fake):
    fake.seeds = (0,)
    study = read(fake)
    chosen = choose_style(study)
    looks = {}
    for entry in study.entries:
        candidate = (entry.axes["positional"], entry.axes["attention"])
        looks.setdefault(candidate, set()).add(chosen.mark(entry).colour)
    assert all(len(colours) == 1 for colours in looks.values())
    assert len(set.union(*looks.values())) == len(looks) == 6
    assert looks["learned", "mha"] == {style.BASELINE}


def test_the_baseline_is_black_wherever_it_is(fake):
    fake.baseline = {"positional": "rope", "attention": "gqa2", "parallelism": "single"}
    fake.seeds = (0,)
    study = read(fake)
    chosen = choose_style(study)
    black = {e.label for e in study.entries if chosen.mark(e).colour == style.BASELINE}
    assert black == {f"rope-gqa2-{label}" for label in fake.axes["parallelism"]}


def test_colours_of_a_part_are_those_of_the_whole(fake):
    """A candidate would have one colour in the curves and another in the bars."""
    fake.seeds = (0,)
    summary = summarize(read(fake), "now")
    whole = choose_style(summary.study)
    part = summary.restricted_to(summary.study.entries[5:])
    again = part.restricted_to(part.study.entries[3:])
    for entry in again.study.entries:
        assert choose_style(again.study).mark(entry) == whole.mark(entry)


def test_one_architecture_has_a_colour_per_context(fake):
    fake.axes = {"size": ["S", "M", "L"]}
    sizes = (("S", 64), ("M", 128), ("L", 256))
    fake.settings = {"size": {name: {"model.n_embd": n} for name, n in sizes}}
    fake.baseline = {"size": "S"}
    fake.compare = []
    fake.seeds = (0,)
    study = read(fake)
    chosen = choose_style(study)
    assert len({chosen.mark(entry).colour for entry in study.entries}) == 3


def test_repeated_colours_get_other_dashes_and_markers(fake):
    fake.axes = {"attention": [f"window{i}" for i in range(40)], "parallelism": ["single"]}
    fake.baseline = {"attention": "window0", "parallelism": "single"}
    fake.seeds = (0,)
    fake.steps = 4
    study = read(fake)
    chosen = choose_style(study)
    assert len({(chosen.mark(entry), chosen.markers(entry)) for entry in study.entries}) == 40


def test_names_in_one_panel_are_distinct(fake):
    fake.seeds = (0,)
    entries = read(fake).entries
    chosen = choose_style(read(fake))
    assert len({chosen.within_panel(entry) for entry in entries}) == 6
    chosen = chosen.in_one_panel(entries)
    assert len({chosen.within_panel(entry) for entry in entries}) == len(entries)
