"""If these failed, a reader would be told of a speedup, or of its trend, the wrong way round."""

import math

import pytest
from reported import written
from synthetic_ladder import SyntheticLadder

from harness.analysis import dataset
from harness.analysis.summary import summarize
from harness.report import charts
from harness.report.charts.spec import log_ticks
from harness.report.sections.ladder import sentence
from harness.results.records import LadderSettings
from harness.results.records.ladder import Ladder, LadderSpeedup, LadderTrend


@pytest.fixture
def fake_ladder(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda fd: None)
    monkeypatch.setattr("harness.analysis.ladder_estimates.RESAMPLES", 200)
    fake = SyntheticLadder(tmp_path / "results", name="ladder", noise=0.003)
    fake.axes["attention"] = ["mha", "gqa2"]
    fake.ladder = LadderSettings(axis="size", project_to=1e13)
    return fake


def said(compute, bounds, verdict, time=None):
    trend = LadderTrend(
        entry="rope",
        against="learned",
        compute_multiplier=compute,
        compute_multiplier_ci95=bounds,
        time_multiplier=time,
        time_multiplier_ci95=time and (time / 1.1, time * 1.1),
        change_per_decade=1.0,
        change_per_decade_ci95=(0.9, 1.1),
        margin=1.1,
        verdict=verdict,
    )
    speedups = []
    for size, multiplier in (("S", 1.05), ("XL", 1.3)):
        row = LadderSpeedup.model_construct(
            entry="rope", size=size, compute_multiplier=multiplier, against="learned"
        )
        speedups.append(row)
    parts = sentence(Ladder.model_construct(speedups=speedups), trend)
    return "".join(getattr(part, "text", part) for part in parts)


SENTENCES = {
    "advantage": (
        (1.21, (1.1, 1.33), "holds", 1.15),
        "rope reaches the loss of learned with 1.21 times less compute [1.10, 1.33]; the advantage "
        "holds over sizes. In training time, its speedup is 1.15 [1.05, 1.26].",
    ),
    "growing": (
        (1.21, (1.1, 1.33), "grows"),
        "rope reaches the loss of learned with 1.21 times less compute [1.10, 1.33]; the advantage "
        "grows with size, from 1.05 at S to 1.30 at XL.",
    ),
    "disadvantage": (
        (0.8, (0.75, 0.9), "grows"),
        "rope needs 1.25 times more compute [1.11, 1.33] for the loss of learned; the disadvantage "
        "shrinks with size, from 1.05 at S to 1.30 at XL.",
    ),
    "growing disadvantage": (
        (0.8, (0.75, 0.9), "shrinks"),
        "rope needs 1.25 times more compute [1.11, 1.33] for the loss of learned; the disadvantage "
        "grows with size, from 1.05 at S to 1.30 at XL.",
    ),
    "unresolved": (
        (1.02, (0.9, 1.1), "unresolved"),
        "rope has no resolved speedup over learned: 1.02 times less compute [0.90, 1.10] for the "
        "same loss; whether the speedup depends on size is unresolved.",
    ),
    "open end": (
        (1.5, (1.1, math.nan), "unresolved"),
        "rope reaches the loss of learned with 1.50 times less compute [1.10, not reached]; "
        "whether the advantage depends on size is unresolved.",
    ),
    "never reached": (
        (None, None, None),
        "rope has losses that the law of learned never reaches.",
    ),
    "no interval": (
        (1.2, None, None),
        "rope has an effective speedup of 1.2 over learned.",
    ),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_the_sentence_states_direction_and_trend(case):
    arguments, expected = SENTENCES[case]
    assert said(*arguments) == expected


def test_a_report_shows_speedups_laws_and_the_projection(fake_ladder, no_figures):
    page, summary, folder = written(fake_ladder.write())
    section = page.partition("## Scaling with size")[2].partition("\n## ")[0]
    said = "gqa2 reaches the loss of mha with 1.19 times less compute [1.1"
    assert said in section and said in page.partition("\n## ")[0]
    assert "This is more than 10 times the largest size" in section
    for figure in ("ladder_speedup", "ladder_loss", "ladder_projection"):
        assert f"figures/{figure}.png" in section
    for table in ("points", "fits", "speedups", "trends", "projections", "curves"):
        rows = (folder / f"tables/ladder_{table}.csv").read_text().splitlines()
        assert len(rows) == 1 + len(summary["ladder"][table]), table
        assert len(rows) > 1


def test_a_multiplier_without_end_is_no_infinity(fake_ladder, no_figures):
    class Lower(SyntheticLadder):
        def true_loss(self, labels):
            return super().true_loss(labels) - 0.9 * (labels[1] == "gqa2")

    fake_ladder.entropy = None
    fake_ladder.ladder = LadderSettings(axis="size", irreducible="per entry")
    page, _, folder = written(Lower(**vars(fake_ladder)).write())
    section = page.partition("## Scaling with size")[2].partition("\n## ")[0]
    assert "not reached" in section and "never reaches" in section
    texts = [section, *(file.read_text() for file in folder.glob("tables/ladder_*.csv"))]
    assert not any("inf" in text.replace("infty", "") for text in texts)


@pytest.mark.parametrize("shift", [-0.3, 0.3])
def test_a_baseline_that_size_does_not_help_gives_no_speedup(fake_ladder, no_figures, shift):
    class Flat(SyntheticLadder):
        def true_loss(self, labels):
            size = int(labels[-1].removeprefix("S"))
            return 2.0 + 0.01 * size + shift * (labels[1] == "gqa2")

    fake_ladder.entropy = None
    page, summary, _ = written(Flat(**vars(fake_ladder)).write())
    section = page.partition("## Scaling with size")[2].partition("\n## ")[0]
    assert "No speedup, the loss of mha does not fall with size: gqa2" in section
    assert not summary["ladder"]["speedups"] and not summary["ladder"]["trends"]


@pytest.mark.parametrize("shift", [-0.1, 0.02, 0.5])
def test_factors_of_an_almost_flat_law_are_finite(fake_ladder, no_figures, shift):
    class AlmostFlat(SyntheticLadder):
        def true_loss(self, labels):
            size = int(labels[-1].removeprefix("S"))
            return 1.457 + 0.014 * 3.0**-size + shift * (labels[1] == "gqa2")

    fake_ladder.n_sizes = 3
    fake_ladder.entropy = None
    fake = AlmostFlat(**vars(fake_ladder))
    page, summary, folder = written(fake.write())
    section = page.partition("## Scaling with size")[2].partition("\n## ")[0]
    assert "gqa2" in section and summary["ladder"]["trends"]
    texts = [section, *(file.read_text() for file in folder.glob("tables/ladder_*.csv"))]
    assert not any("inf" in text.replace("infty", "") for text in texts)


def test_a_study_without_sizes_has_no_such_section(fake_ladder, no_figures):
    fake_ladder.ladder = None
    fake_ladder.n_sizes = 2
    page, summary, folder = written(fake_ladder.write())
    assert "Scaling with size" not in page and summary["ladder"] is None
    assert not list(folder.glob("tables/ladder_*"))


def test_charts_join_laws_and_not_measurements(fake_ladder):
    study = dataset.read(fake_ladder.write().store, fake_ladder.name)
    by_name = {spec.name: spec for spec in charts.build(summarize(study, "now"))}
    panels = by_name["ladder_loss"].plot.panels
    assert [panel.x.label for panel in panels] == [
        "training FLOPs",
        "parameters",
        "training tokens",
    ]
    for panel in panels:
        laws = [line for line in panel.lines if line.joined]
        measured = [line for line in panel.lines if not line.joined]
        assert [line.entry for line in laws] == [line.entry for line in measured]
        assert all(len(line.x) == 4 for line in measured)
        assert all(panel.x.limits[0] < x < panel.x.limits[1] for line in measured for x in line.x)
        assert all(panel.y.limits[0] < y < panel.y.limits[1] for line in measured for y in line.y)
        assert panel.x.log2 and panel.y.log2 and len(panel.x.ticks) > 1 and len(panel.y.ticks) > 1
    speedup = by_name["ladder_speedup"].plot.panels
    assert [panel.title for panel in speedup] == ["compute", "training time"]
    assert all(panel.references[0].value == 1.0 for panel in speedup)
    (projection,) = by_name["ladder_projection"].plot.panels
    assert projection.references[0].label == "largest size"
    assert max(line.x[-1] for line in projection.lines) == pytest.approx(1e13)


@pytest.mark.parametrize(
    ("low", "high"), [(1e9, 1e13), (6e9, 5e11), (0.8, 1.3), (1.7, 2.4), (0.99, 1.02), (9e4, 9e5)]
)
def test_ticks_of_logarithms_are_round_and_within(low, high):
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 8 and all(low <= tick <= high for tick in ticks)
    digits = [f"{tick:.9e}".partition("e")[0].replace(".", "").strip("0") for tick in ticks]
    assert all(len(text) <= 3 for text in digits)
