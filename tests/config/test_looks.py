"""If these failed, a study would add other seeds than planned, or at another error rate."""

import pytest

from harness.config import UntilResolved, load
from harness.errors import UserError
from harness.study.looks import _grown, plan_looks
from harness.study.study_file import read

SEEDS = "seeds = [0, 1]"


def planned(write_study, stated, until=None, seeds=None, where=()):
    return load(write_study((SEEDS, stated)), seeds=seeds, where=where, until=until)


def plan(write_study, stated, until=None, seeds=None, more=""):
    """Return the planned looks of a study that is not expanded, and the texts of all problems."""
    path = write_study((SEEDS, stated), more=more)
    try:
        file, problems = read(path, seeds=seeds)
    except UserError as error:
        return None, [str(problem).removeprefix(f"{path}: ") for problem in error.problems]
    looks, more_problems = plan_looks(file, str(path), until, has_seeds=seeds is not None)
    texts = [str(problem).removeprefix(f"{path}: ") for problem in (*problems, *more_problems)]
    return looks, texts


def test_a_study_without_looks_keeps_its_seeds(write_study):
    study = planned(write_study, SEEDS)
    assert study.looks is None
    assert {spec.seed for spec in study.runs} == {0, 1}


@pytest.mark.parametrize(
    ("stated", "looks", "seeds"),
    [
        ("seeds = [0, 1, 2]\nlooks = [3, 5, 8]", [3, 5, 8], [0, 1, 2, 3, 4, 5, 6, 7]),
        ("seeds = [7, 3]\nlooks = [2, 5]", [2, 5], [7, 3, 8, 9, 10]),
        ("seeds = [0, 1, 2, 3, 4]\nlooks = [3, 6]", [3, 6], [0, 1, 2, 3, 4, 5]),
        ("seeds = [999999, 5]\nlooks = [2, 4]", [2, 4], [999999, 5, 0, 1]),
    ],
)
def test_stated_looks_count_on_from_the_seeds(write_study, stated, looks, seeds):
    found, _ = plan(write_study, stated)
    assert (found.looks, found.seeds, found.open_ended) == (looks, seeds, False)


def test_the_runs_are_those_of_the_last_look(write_study):
    study = planned(write_study, "seeds = [1]\nlooks = [2, 4]")
    assert {spec.seed for spec in study.runs} == {1, 2, 3, 4}
    assert {spec.run_id for spec in study.runs} == study.all_run_ids


@pytest.mark.parametrize(
    ("stated", "max_seeds", "looks"),
    [
        ("seeds = [0]", 12, [3, 5, 8, 12]),
        ("seeds = [0, 1, 2, 3, 4]", 12, [5, 8, 12]),
        ("seeds = [0]", 3, [3]),
        ("seeds = [0]\nlooks = [3, 5, 8, 12]", 10, [3, 5, 8, 10]),
        ("seeds = [0]\nlooks = [3, 5, 8, 12]", 20, [3, 5, 8, 12, 20]),
        ("seeds = [0]\nlooks = [2, 3, 4]", None, [2, 3, 4]),
    ],
)
def test_max_seeds_is_the_last_look(write_study, stated, max_seeds, looks):
    found, _ = plan(write_study, stated, UntilResolved(max_seeds))
    assert found.looks == looks
    assert found.open_ended == (max_seeds is None and "looks" not in stated)


def test_without_an_end_the_looks_are_open_ended(write_study):
    found, _ = plan(write_study, "seeds = [0]", UntilResolved())
    assert found.open_ended
    assert found.looks == [3, 5, 8, 12, 18, 27, 41, 62, 93]


def test_looks_grow_and_end_where_stated():
    for end in range(2, 60):
        looks = _grown([2], end, reaches_end=True)
        assert looks[-1] == end
        assert looks == sorted(set(looks))


def test_seeds_of_the_command_line_fix_their_number(write_study):
    study = planned(write_study, "seeds = [0]\nlooks = [3, 5]", seeds=[4])
    assert study.looks is None
    assert {spec.seed for spec in study.runs} == {4}
    _, [refusal] = plan(write_study, "seeds = [0]", UntilResolved(5), seeds=[4])
    assert refusal.startswith("--seeds: chooses the seeds")
    _, [refusal] = plan(write_study, "seeds = [0]", UntilResolved(5, requested=False))
    assert refusal.startswith("--max-seeds: the study states no looks")
    stated = "seeds = [0]\nlooks = [3, 5]"
    found, _ = plan(write_study, stated, UntilResolved(4, requested=False))
    assert found.looks == [3, 4]


@pytest.mark.parametrize(
    ("stated", "max_seeds", "refused"),
    [
        ("seeds = [0]\nlooks = [1, 3]", None, ["study.looks[0]: 1: one seed has no verdict"]),
        ("seeds = [0]\nlooks = [3, 3, 2]", None, ["study.looks[1]: 3: ", "study.looks[2]: 2: "]),
        ("seeds = [0]\nlooks = []", None, ["study.looks: []"]),
        ("seeds = [0]\nlooks = [2.5]", None, ["study.looks[0]: 2.5"]),
        ("seeds = [0, 1, 2, 3]\nlooks = [2, 3]", None, ["study.seeds: 4 seeds"]),
        ('seeds = [0]\nquestions = ["val_loss"]', None, ["study.questions: only entries"]),
        ('seeds = [0]\nlooks = [3]\nquestions = ["speed"]', None, ["study.questions[0]"]),
        ("seeds = [0]\nlooks = [3, 5]", 2, ["--max-seeds: 2: the first look has 3"]),
        ("seeds = [0]\nlooks = [3]\ncross_seeds = true", None, ["study.cross_seeds: not with"]),
    ],
)
def test_contradictions_are_refused(write_study, stated, max_seeds, refused):
    until = None if max_seeds is None else UntilResolved(max_seeds)
    _, found = plan(write_study, stated, until)
    assert len(found) == len(refused)
    for text, start in zip(found, refused, strict=True):
        assert text.startswith(start)


TUNE = '\n[tune]\naxes = { "train.lr" = [1e-3, 3e-3] }\nseeds = [100]\n'


def test_studies_that_need_equal_seeds_are_refused(write_study):
    _, [refusal] = plan(write_study, "seeds = [0]\nlooks = [3]", more=TUNE)
    assert refusal.startswith("tune: not with looks")
    _, [refusal] = plan(write_study, "seeds = [0]", UntilResolved(5), more=TUNE)
    assert refusal.startswith("tune: not with looks")


def test_a_selection_without_the_baseline_is_refused(write_study):
    with pytest.raises(UserError) as refused:
        planned(write_study, "seeds = [0]\nlooks = [3]", where=["attention=gqa"])
    assert str(refused.value).startswith("--where: leaves out the baseline")
    kept = planned(write_study, "seeds = [0]\nlooks = [3]", where=["parallelism=single"])
    assert len(kept.runs) == 18


def test_looks_change_no_run_id(write_study):
    fixed = planned(write_study, "seeds = [0, 1, 2]")
    with_looks = planned(write_study, "seeds = [0, 1, 2]\nlooks = [3, 5]")
    assert {spec.run_id for spec in fixed.runs} <= {spec.run_id for spec in with_looks.runs}
    assert fixed.settings_hash == with_looks.settings_hash


def test_seeds_of_the_command_line_may_exceed_the_last_look(write_study):
    """They replace the looks, as seeds that are added by hand do."""
    found, problems = plan(write_study, "seeds = [0]\nlooks = [2, 4]", seeds=[0, 1, 2, 3, 4])
    assert (found, problems) == (None, [])
