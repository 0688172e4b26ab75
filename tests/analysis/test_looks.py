"""If these failed, looks that nobody planned would be taken for planned ones, or be forgotten."""

from types import SimpleNamespace

import pytest

from harness.analysis.looks import find_looks, n_complete
from harness.results.records import LaunchRecord, Look, LookPlan, Looks

PLAN = LookPlan(seeds=list(range(8)), looks=[3, 5, 8])


def at(minute):
    return f"2026-01-01T00:{minute:02}:00+00:00"


def runs(minutes, entries="ab", status="done"):
    """Return the runs of some entries of each seed, which end at these minutes."""
    return [
        SimpleNamespace(
            run_id=f"{entry}-s{seed}",
            seed=seed,
            spec=SimpleNamespace(entry=entry),
            status=status if minute is not None else "pending",
            ended_at=None if minute is None else at(minute),
        )
        for entry in entries
        for seed, minute in minutes.items()
    ]


def launch(minute, seeds, entries="ab", plan=None):
    order = [f"{entry}-s{seed}" for entry in entries for seed in seeds]
    return LaunchRecord(
        at=at(minute), command="run", order=order[1:], not_started=order[:1], looks=plan
    )


def found(launches, ended):
    looks = find_looks(launches, ended)
    return looks.planned, [sorted(look.seeds) for look in looks.looks]


def seeds(*counts):
    return [list(range(count)) for count in counts]


def test_one_launch_is_one_look():
    assert found([launch(0, range(3))], runs({0: 1, 1: 2, 2: 3})) == (True, seeds(3))
    assert find_looks([], []) is None
    assert found([], runs({0: 1, 1: 2})) == (True, seeds(2))  # launches.jsonl is lost


def test_the_same_seeds_again_are_no_look():
    again = [launch(0, range(3)), launch(9, range(3)), launch(10, [1]), launch(11, range(2), "a")]
    assert found(again, runs({0: 1, 1: 2, 2: 3})) == (True, seeds(3))


def test_another_entry_on_the_same_seeds_is_no_look():
    more = [launch(0, range(3), "ab"), launch(9, range(3), "abc")]
    ended = runs(dict.fromkeys(range(3), 1)) + runs(dict.fromkeys(range(3), 10), "c")
    assert found(more, ended) == (True, seeds(3))


@pytest.mark.parametrize("asked", [[3, 4], range(5)])
def test_seeds_added_after_results_are_a_look(asked):
    ended = runs({0: 1, 1: 2, 2: 3, 3: 10, 4: 11})
    assert found([launch(0, range(3)), launch(9, asked)], ended) == (False, seeds(3, 5))


def test_seeds_added_before_results_are_no_look():
    ended = runs({0: 10, 1: 11, 2: 12, 3: 13, 4: 14})
    assert found([launch(0, range(3)), launch(9, range(5))], ended) == (True, seeds(5))


def test_one_complete_seed_is_no_look():
    ended = runs({0: 1, 1: 10, 2: 11})
    assert found([launch(0, [0]), launch(9, range(3))], ended) == (True, seeds(3))


def test_partial_results_before_a_change_are_a_look():
    ended = runs({0: 1, 1: 2, 2: 10, 3: 11, 4: 12})
    assert found([launch(0, range(4)), launch(9, range(5))], ended) == (False, seeds(2, 5))


def test_planned_looks_are_planned_however_often_they_resume():
    ended = runs({0: 1, 1: 2, 2: 3, 3: 10, 4: 11})
    log = [launch(0, range(3), plan=PLAN), launch(9, range(5), plan=PLAN), launch(12, [4])]
    assert found(log, ended) == (True, seeds(3, 5, 8))
    looks = find_looks(log, ended)
    assert [look.level for look in looks.looks] == pytest.approx([0.05 / 3] * 3)
    assert n_complete(looks, ended) == 2


def test_seeds_beyond_the_plan_are_a_look():
    ended = runs(dict.fromkeys(range(8), 1) | dict.fromkeys(range(8, 10), 12))
    log = [launch(0, range(8), plan=PLAN), launch(9, [8, 9])]
    assert found(log, ended) == (False, seeds(3, 5, 8, 10))
    levels = [look.level for look in find_looks(log, ended).looks]
    assert levels == pytest.approx([0.05 / (k * (k + 1)) for k in (1, 2, 3, 4)])


def test_a_plan_after_results_keeps_the_look_at_them():
    ended = runs(dict.fromkeys(range(4), 1) | dict.fromkeys(range(4, 8), 12))
    log = [launch(0, range(4)), launch(9, range(5), plan=PLAN)]
    assert found(log, ended) == (False, seeds(4, 5, 8))


def test_another_plan_after_a_look_is_not_planned():
    longer = LookPlan(seeds=list(range(12)), looks=[3, 5, 8, 12])
    asked = [launch(0, range(3), plan=PLAN), launch(9, range(3), plan=longer)]
    assert found(asked, runs({0: 1, 1: 2, 2: 3})) == (False, seeds(3, 5, 8, 12))
    assert found(asked, runs({0: 10, 1: 11, 2: 12})) == (True, seeds(3, 5, 8, 12))
    questions = PLAN.model_copy(update={"questions": ["val_loss"]})
    asked = [launch(0, range(3), plan=PLAN), launch(9, range(3), plan=questions)]
    assert found(asked, runs({0: 1, 1: 2, 2: 3})) == (True, seeds(3, 5, 8))


def test_a_look_is_complete_when_all_its_runs_have_ended():
    looks = Looks(planned=True, looks=[Look(seeds=list(range(n)), level=0.025) for n in (2, 4)])
    first = {0: 1, 1: 2}
    assert n_complete(looks, runs(first)) == 1
    assert n_complete(looks, runs(first, status="failed")) == 1
    assert n_complete(looks, runs(first | {2: 3, 3: None})) == 1
    assert n_complete(looks, runs(first | {2: 3, 3: 4})) == 2
    assert n_complete(looks, runs(first) + runs(dict.fromkeys(range(4), 1), "b")) == 2
    assert n_complete(looks, runs(first) + runs({1: None}, "c")) == 0
    assert n_complete(looks, runs(first | {2: 3}) + runs(first, "c")) == 1  # seed 3 was dropped
    by_hand = looks.model_copy(update={"planned": False})
    assert n_complete(by_hand, runs(first | {2: 3, 3: 4}) + runs({1: 1, 2: 1}, "c")) == 2
