"""If these failed, seeds would go to entries that need none, or verdicts would be wrong too often.

Each test runs whole studies in this process, with planted losses in place of training.
"""

from collections import Counter

import numpy as np
import pytest
from command_line import Harness
from planted_runs import PlantedRuns, finish

from harness.analysis import budgets, dataset, hypotheses, seed_plan
from harness.analysis.power import two_key_power
from harness.analysis.summary import summarize
from harness.report import study_report
from harness.report.render import markdown
from harness.results.store import Store

# entry -> its loss and the time of its steps, relative to the baseline's, and their noise
EFFECTS = {"learned": (0.0, 1.0), "rope": (-0.2, 1.5), "alibi": (0.0, 1.5)}
NOISE = 0.01
NARROW = "study.equivalence_margin={ val_loss = 0.03 }"
WIDE = "study.equivalence_margin={ val_loss = 0.06 }"


class PlantedLooks(PlantedRuns):
    """Ends each run with a planted loss and speed."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: set[tuple[str, int]] = set()
        self.effects = dict(EFFECTS)

    def plant(self, run) -> None:
        spec = run.spec
        name = spec.axes["positional"].label
        if (name, spec.seed) in self.failures:
            run.finish("failed", "nan", "as planted")
            return
        loss, slowness = self.effects[name]
        rng = np.random.default_rng([spec.seed, *map(ord, name)])
        shared = np.random.default_rng(spec.seed).standard_normal()
        finish(
            run,
            1.5 + loss + 0.1 * shared + NOISE * rng.standard_normal(),
            [0.1 * slowness * (1 + 0.01 * rng.standard_normal())],
        )

    def seeds(self) -> Counter:
        """Return the number of runs of each positional variant."""
        return Counter(run_id.split("-")[0] for run_id in self.started)


@pytest.fixture
def planted(start_runs_by) -> PlantedLooks:
    return start_runs_by(PlantedLooks())


@pytest.fixture
def harness(tmp_path):
    harness = Harness(tmp_path)
    harness.study('["learned", "rope", "alibi"]')
    yield harness
    harness.stop()


def study(harness) -> dataset.StudyResults:
    return dataset.read(Store(harness.folder / "results"), "s")


def verdicts(harness) -> dict[str, tuple[str | None, int | None]]:
    """Return the verdict on the loss of each entry, and its look."""
    tests = hypotheses.test_hypotheses(study(harness))["val_loss"].entries
    return {label.split("-")[0]: (test.verdict, test.look) for label, test in tests.items()}


def report(harness) -> str:
    """Return the report, without figures and line breaks."""
    built = study_report.build(summarize(study(harness), "now"), [])
    return " ".join(markdown.render(built).split())


def run_until_resolved(harness, *more, margin=NARROW, code=0):
    return harness("run", "study.toml", "--until", "resolved", *more, settings=[margin], code=code)


def test_entries_with_a_verdict_get_no_more_seeds(harness, planted):
    finished = run_until_resolved(harness, "--max-seeds", 8)
    assert planted.seeds() == {"rope": 3, "learned": 8, "alibi": 8}
    assert verdicts(harness) == {"rope": ("better", 1), "alibi": ("unresolved", 3)}
    found = study(harness).looks
    assert [len(look.seeds) for look in found.looks] == [3, 5, 8]
    assert [look.level for look in found.looks] == pytest.approx([0.05 / 3] * 3)
    assert found.planned
    assert "s: looks at 3, 5, 8 seeds, level 0.01667 each; at least 9 runs, at most 24" in (
        finished.stderr
    )
    assert "look 1 of 3: of 2 entries 1 settled, 1 continue; at most 10 runs left, about 15 s" in (
        finished.stderr
    )
    assert "look 3 of 3: of 2 entries 1 settled, 1 unresolved at the last look" in finished.stderr
    text = report(harness)
    assert (
        "Planned looks at 3, 5, 8 seeds, at the level 0.017 each; entries with a verdict get no "
        "more seeds. The verdicts are those after 3 looks." in text
    )
    assert "nplanned look" not in text.replace("Planned looks", "")
    assert "| verdict | look | difference in val loss |" in text
    for ranking in budgets.rankings(study(harness)):  # over equal seeds of all entries
        assert {mean.n for mean in ranking.val_loss.values()} == {3}


def test_a_study_ends_when_all_entries_are_settled(harness, planted, tmp_path):
    finished = run_until_resolved(harness, "--max-seeds", 8, margin=WIDE)
    assert verdicts(harness) == {"rope": ("better", 1), "alibi": ("equivalent", 2)}
    assert planted.seeds() == {"rope": 3, "learned": 5, "alibi": 5}
    state = harness("status", "study.toml").stdout
    assert "looks at 3, 5, 8 seeds: the newest launch is for look 2" in state
    assert "look 2 of 3: of 2 entries 2 settled; no entry needs more seeds" in finished.stderr
    planned_looks = harness("plan", "study.toml", "--effect-size", "0.01").stdout
    assert "planned looks: at 3, 5, 8 seeds, levels 0.017, 0.017, 0.017; 2 complete" in (
        planned_looks
    )
    later = next(run_id for run_id in planted.started if "-s4-" in run_id)
    harness("reproduce", "results/s", tmp_path / "again", "--run", later)
    assert f"--seeds 0,1,2,3,4 --run {later}" in (tmp_path / "again/run.sh").read_text()


def test_entries_that_cannot_be_resolved_stop(harness, planted):
    planted.effects["alibi"] = (0.03, 1.5)  # at the margin
    finished = run_until_resolved(harness, "--max-seeds", 4)
    assert planted.seeds()["alibi"] == 3
    assert "1 stopped, as no verdict is likely at the last look" in finished.stderr


@pytest.mark.parametrize("n_started", [9, 13])
def test_an_interrupted_study_gets_the_same_verdicts(harness, planted, n_started):
    planted.stop_after = n_started  # within the looks and between them
    with pytest.raises(KeyboardInterrupt):
        run_until_resolved(harness, "--max-seeds", 8)
    planted.stop_after = None
    run_until_resolved(harness, "--max-seeds", 8)
    assert len(planted.started) == len(set(planted.started)) == 19
    assert verdicts(harness) == {"rope": ("better", 1), "alibi": ("unresolved", 3)}
    assert study(harness).looks.planned
    assert len(study(harness).looks.looks) == 3


def test_looks_of_the_study_file_need_no_option(harness, planted):
    looks = "study.looks=[3, 4]"
    questions = 'study.questions=["tokens_per_s"]'
    harness("run", "study.toml", settings=[looks, WIDE])
    assert planted.seeds() == {"rope": 3, "learned": 4, "alibi": 4}
    planted.started.clear()
    harness("run", "study.toml", settings=[looks, questions, WIDE, "train.lr=1e-3"])
    assert planted.seeds() == {"rope": 3, "learned": 3, "alibi": 3}


def test_a_dry_run_shows_the_plan(harness, planted):
    finished = harness("run", "study.toml", "--dry-run", "--until", "resolved", "--max-seeds", "5")
    assert len(finished.stdout.split()) == 9
    assert "looks at 3, 5 seeds, level 0.025 each; at least 9 runs, at most 15" in finished.stderr
    assert planted.started == []
    listed = harness("list", "study.toml", settings=["study.looks=[3, 5]"])
    assert "looks at 3, 5 seeds" in listed.stdout


def test_seeds_added_by_hand_are_an_unplanned_look(harness, planted):
    harness("run", "study.toml", settings=["study.seeds=[0, 1, 2]"])
    assert study(harness).looks.is_fixed
    assert verdicts(harness) == {"rope": ("better", None), "alibi": ("unresolved", None)}
    harness("run", "study.toml", settings=["study.seeds=[0, 1, 2]"])  # no look: the same seeds
    assert study(harness).looks.is_fixed
    harness("run", "study.toml", settings=["study.seeds=[3, 4]"])
    found = study(harness).looks
    assert not found.planned
    assert [look.seeds for look in found.looks] == [[0, 1, 2], [0, 1, 2, 3, 4]]
    assert [look.level for look in found.looks] == pytest.approx([0.05 / 2, 0.05 / 6])
    assert verdicts(harness) == {"rope": ("better", 1), "alibi": ("unresolved", 2)}
    text = report(harness)
    assert "Unplanned looks: seeds were added when results could be seen." in text
    assert "looks at 3, 5 seeds have the levels 0.025, 0.0083: 0.05/(k(k+1)) for look k" in text


def test_looks_planned_after_results_are_not_planned(harness, planted):
    harness("run", "study.toml", settings=["study.seeds=[0, 1, 2]"])
    finished = run_until_resolved(harness, "--max-seeds", 5)
    assert "results were there before these looks were planned" in finished.stderr
    found = study(harness).looks
    assert (found.planned, len(found.looks)) == (False, 2)


def test_a_dry_run_on_results_decides_as_the_run_does(harness, planted):
    """The plan is not recorded yet, so that its looks, margins and levels must come from it."""
    harness("run", "study.toml", settings=["study.seeds=[0, 1, 2]"])
    shown = run_until_resolved(harness, "--max-seeds", 8, "--dry-run", margin=WIDE).stderr
    assert planted.seeds() == {"rope": 3, "learned": 3, "alibi": 3}
    ran = run_until_resolved(harness, "--max-seeds", 8, margin=WIDE).stderr
    for text in (shown, ran):
        assert "results were there before these looks were planned" in text
        assert "look 1 of 3: of 2 entries 1 settled, 1 continue; at most 10 runs left" in text


def test_a_plan_that_changes_after_a_look_is_not_planned(harness, planted):
    run_until_resolved(harness, "--max-seeds", 5, margin=WIDE)
    assert verdicts(harness)["alibi"] == ("equivalent", 2)
    run_until_resolved(harness, "--max-seeds", 8, margin=WIDE)
    found = study(harness).looks
    assert not found.planned
    assert [len(look.seeds) for look in found.looks] == [3, 5, 8]
    assert [look.level for look in found.looks] == pytest.approx([0.05 / k for k in (2, 6, 12)])


def test_a_change_before_any_result_is_no_look(harness, planted):
    planted.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        harness("run", "study.toml", settings=["study.seeds=[0, 1, 2]"])
    planted.stop_after = None
    run_until_resolved(harness, "--max-seeds", 5)
    assert study(harness).looks.planned


def test_an_entry_that_lost_a_seed_gets_no_more(harness, planted):
    planted.failures = {("alibi", 1)}
    finished = run_until_resolved(harness, "--max-seeds", 5, code=1)
    assert "1 settled, 1 stopped, as a run failed; no entry needs more seeds" in finished.stderr
    assert planted.seeds() == {"rope": 3, "learned": 3, "alibi": 3}


def test_open_ended_looks_have_falling_levels(harness, planted):
    finished = run_until_resolved(harness, margin=WIDE)
    assert "levels 0.025, 0.0083, 0.0042" in finished.stderr
    assert planted.seeds()["rope"] == 3
    found = study(harness).looks
    assert (found.planned, found.open_ended) == (True, True)
    assert [look.level for look in found.looks[:2]] == pytest.approx([0.05 / 2, 0.05 / 6])


def test_stopped_entries_do_not_lead_between_looks(harness, planted):
    """They are complete before the others, which does not make a higher loss the lowest."""
    planted.effects["rope"] = (0.2, 1.5)
    planted.stop_after = 10
    with pytest.raises(KeyboardInterrupt):
        run_until_resolved(harness, "--max-seeds", 5, margin=WIDE)
    assert verdicts(harness)["rope"] == ("worse", 1)
    text = report(harness)
    assert "Lowest final validation loss: `" in text
    assert "Lowest final validation loss: `rope" not in text


def test_a_plan_has_the_level_of_its_looks(harness, planted):
    """At 5 %, the power of the looks would be overstated."""
    run_until_resolved(harness, "--max-seeds", 5)
    (plan,) = seed_plan.plan_seeds(study(harness), 0.02)
    assert plan.alpha == pytest.approx(0.025)
    effect = 0.02 / plan.noise.sd
    assert plan.power.iloc[2, -1] == pytest.approx(two_key_power(4, effect, 2, alpha=0.025))
    assert "power at level 0.025" in harness("plan", "s", "--effect-size", "0.02").stdout
