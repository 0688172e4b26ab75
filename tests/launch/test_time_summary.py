"""Without these, the share of a launch in which its runs trained would be above 100 %, or wrong."""

from datetime import UTC, datetime

import pytest
from synthetic_results import SyntheticStudy

from harness.launch.time_summary import time_summary
from harness.results import owner
from harness.results.files import write_json
from harness.results.records import RunTime

BEGIN = 1_700_000_000.0
WALL_S = 100.0


@pytest.fixture
def study(tmp_path):
    axes = {"positional": ["learned", "rope", "alibi"]}
    baseline = {"positional": "learned"}
    return SyntheticStudy(tmp_path, axes=axes, baseline=baseline, seeds=(0,)).write()


def specs(study):
    return study.store.specs("tiny")


def set_attempt(study, spec, start, end, busy_s, resumed_at=(), **status):
    """Set when the newest attempt of a run ran, seconds after BEGIN, and the time it trained."""
    run = study.store.run("tiny", spec.run_id)

    def at(seconds):
        return datetime.fromtimestamp(BEGIN + seconds, UTC).isoformat()

    changes = {"started_at": at(start), "ended_at": at(end)} | status
    write_json(run.path / "status.json", run.status.model_copy(update=changes))
    time = RunTime(train_s=busy_s, eval_s=0.0)
    changes = {"time": time, "resumed_at": list(resumed_at)}
    write_json(run.path / "probes.json", run.probes.model_copy(update=changes))


def summary(study, runs=None):
    return time_summary(study.store, runs or specs(study), BEGIN, BEGIN + WALL_S)


def test_runs_one_after_the_other(study):
    for i, spec in enumerate(specs(study)):
        set_attempt(study, spec, 30 * i, 30 * i + 28, busy_s=20)
    assert summary(study) == "1 min 40 s, 60% of it training and evaluating"


def test_runs_of_another_launch_on_this_machine_do_not_count(study):
    """Two harnesses share the runs of a study."""
    for i, spec in enumerate(specs(study)):
        pid = owner.this_process().pid + (i > 0)
        set_attempt(study, spec, 1, 99, busy_s=80, pid=pid)
    assert summary(study) == "1 min 40 s, 80% of it training and evaluating"


def test_runs_at_once_and_jobs_have_their_mean(study):
    for spec in specs(study):
        set_attempt(study, spec, 1, 99, busy_s=60, pid=1, host="node-7", job="12_3")
    expected = "1 min 40 s, 60% of it training and evaluating (mean of 3 runs at once)"
    assert summary(study) == expected


def test_earlier_attempts_do_not_count(study):
    """The records of a run that has resumed include the times of the attempts before."""
    resumed, before, open_run = specs(study)
    run = study.store.run("tiny", resumed.run_id)

    total_s = sum(run.steps().step_s) + sum(line.eval_s for line in run.evals())
    rest_s = sum(run.steps().step_s[8:]) + sum(x.eval_s for x in run.evals() if x.step > 8)
    set_attempt(study, resumed, 1, 99, busy_s=total_s + 50 - rest_s, resumed_at=[4, 8])
    set_attempt(study, before, -50, 60, busy_s=90)
    set_attempt(study, open_run, 1, 99, busy_s=90, status="interrupted")
    assert summary(study) == "1 min 40 s, 50% of it training and evaluating"


def test_a_damaged_run_is_left_out(study):
    first, second, before = specs(study)
    set_attempt(study, first, 1, 99, busy_s=50)
    set_attempt(study, before, -50, -20, busy_s=20)
    (study.store.run("tiny", second.run_id).path / "status.json").write_text("{")
    assert summary(study, [first, second, before]).startswith("1 min 40 s, 50% of it")
