"""If these failed, the difference of two machines would be reported as one of two variants."""

import itertools
import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from gallery_results import GALLERY
from reported import written

from harness.analysis import dataset, machines, sharing, summary
from harness.analysis.hypotheses import test_hypotheses
from harness.analysis.machines import compare_speeds, speed_reason
from harness.analysis.sharing import with_sharing
from harness.results.records import Environment
from harness.results.steps import Steps

test_hypotheses.__test__ = False  # it is the function under test

SEEDS = (0, 1, 2)
BASE, OTHER = "learned-mha-single", "learned-gqa2-single"
MACHINES = [{"host": "node-1"}, {"host": "node-2", "cpu": "Another CPU"}]
# Each field of env.json with another value, by what that does to a comparison of times.
REFUSED = {
    "host": "node-2",
    "cpu": "Another CPU",
    "cores": 64,
    "gpu": "A GPU",
    "torch": "2.12.0",
    "cuda": "13.0",
    "threads": 1,
    "usable_cores": 1,
    "n_nodes": 2,
}
# These decide about no time, or are settings that an axis may ask about (precision, compile).
ALLOWED = (
    "schema_version version python numpy platform memory_bytes backend precision "
    "compile deterministic earlier_machines git_commit git_dirty hosts devices pinned_cores job "
    "timing"
).split()


@pytest.fixture
def study(one_axis):
    one_axis.seeds = SEEDS
    one_axis.decode = ([1], [4])
    return dataset.read(one_axis.write().store, "tiny")


def changed(study, change):
    """Return the study with each run replaced by `change(run)`."""
    entries = tuple(
        replace(entry, runs=tuple(change(run) for run in entry.runs)) for entry in study.entries
    )
    return replace(study, entries=entries)


def with_env(run, **values):
    return replace(run, env=run.env.model_copy(update=values))


def faster(run):
    """Return the run at twice the speed."""
    columns = vars(run.steps) | {"step_s": run.steps.step_s / 2}
    evals = replace(run.evals, train_s=run.evals.train_s / 2)
    return replace(run, steps=Steps(**columns), evals=evals)


def placed(study, hosts):
    """Return the study with each run on machine 0 or 1, of which 1 is twice as fast."""

    def place(run):
        host = hosts[run.spec.entry, run.seed]
        moved = with_env(run, **MACHINES[host])
        return faster(moved) if host else moved

    return changed(study, place)


def test_runs_split_over_two_hosts_in_every_way(study):
    """Only pairs on one host count, and they give what they give on one machine."""
    keys = list(itertools.product((BASE, OTHER), SEEDS))
    alone = test_hypotheses(study)["tokens_per_s"].entries[OTHER]
    for hosts in itertools.product((0, 1), repeat=len(keys)):
        where = dict(zip(keys, hosts, strict=True))
        made = placed(study, where)
        sound = [seed for seed in SEEDS if where[BASE, seed] == where[OTHER, seed]]
        tests = test_hypotheses(made)["tokens_per_s"]
        result = tests.entries.get(OTHER)
        assert (result.difference.n if result else 0) == len(sound)
        row = summary.metrics.comparisons(made)[0]
        assert row.speed_seeds_excluded == [seed for seed in SEEDS if seed not in sound]
        assert bool(row.speed_not_comparable) == (not sound)
        assert bool(row.tokens_per_s_ratio) == bool(sound)
        for effect in tests.main_effects:
            assert effect.estimate is None or abs(np.expm1(effect.estimate)) < 0.3, where
        if len(sound) < 2:
            assert result is None or result.verdict is None
        if len(sound) == len(SEEDS):
            assert result.verdict == alone.verdict
            assert result.difference.mean == pytest.approx(alone.difference.mean)
        if sound:
            assert abs(np.expm1(result.difference.mean)) < 0.3, "includes the machines' difference"
        saving = summary.budgets.savings(made)[0]
        assert saving.train_time_ratio is None or sound


def test_rankings_and_leaders_by_time_need_equal_machines(study):
    here = placed(study, {(entry, seed): 0 for entry in (BASE, OTHER) for seed in SEEDS})
    assert any(row.budget_kind == "train_s" for row in summary.budgets.rankings(here))
    apart = placed(
        study, {(entry, seed): entry == OTHER for entry in (BASE, OTHER) for seed in SEEDS}
    )
    kinds = {row.budget_kind for row in summary.budgets.rankings(apart)}
    assert "tokens" in kinds
    assert "train_s" not in kinds
    by_seed = placed(study, {(entry, seed): seed == 1 for entry in (BASE, OTHER) for seed in SEEDS})
    assert any(row.budget_kind == "train_s" for row in summary.budgets.rankings(by_seed))
    assert summary.summarize(apart, "now").without_speed == {OTHER: "another machine"}
    assert not summary.summarize(by_seed, "now").without_speed


def test_decoding_is_compared_on_one_machine(study):
    entry = next(entry for entry in study.entries if entry.label == OTHER)
    assert summary.decoding.measures(study, entry)[0].decode_tokens_per_s_ratio
    apart = placed(
        study, {(label, seed): label == OTHER for label in (BASE, OTHER) for seed in SEEDS}
    )
    entry = next(entry for entry in apart.entries if entry.label == OTHER)
    (decoding,) = summary.decoding.measures(apart, entry)
    assert decoding.decode_tokens_per_s is not None
    assert decoding.decode_tokens_per_s_ratio is None


def test_every_field_of_the_environment_is_known():
    """A new field of env.json on which times depend needs a line in `machines`."""
    part_of_slot = {"world_size"}
    assert {*REFUSED, *ALLOWED, *part_of_slot} == {*Environment.model_fields}


@pytest.mark.parametrize("field", REFUSED)
def test_another_machine_slot_or_software_is_refused(study, field):
    def change(run):
        run = with_env(run, usable_cores=2)
        return with_env(run, **{field: REFUSED[field]}) if run.spec.entry == OTHER else run

    made = changed(study, change)
    assert OTHER not in test_hypotheses(made)["tokens_per_s"].entries
    row = summary.metrics.comparisons(made)[0]
    assert row.tokens_per_s_ratio is None
    assert row.speed_not_comparable.startswith("other ")
    assert str(REFUSED[field]) in row.speed_not_comparable
    assert row.peak_memory_ratio is None or field != "gpu"
    (caveat,) = machines.caveats(made)
    assert (caveat.kind, caveat.entry) == ("other-hardware", OTHER)
    assert test_hypotheses(made)["val_loss"].entries[OTHER].verdict


@pytest.mark.parametrize("field", ALLOWED)
def test_other_fields_leave_times_comparable(study, field):
    run = study.entries[0].done[0]
    value = ["elsewhere"] if field == "earlier_machines" else 7
    assert speed_reason(with_env(run, **{field: value}), run) is None


def test_memory_of_a_gpu_needs_the_same_software(study):
    run = with_env(study.entries[0].done[0], gpu="A GPU", cuda="12.8")
    assert machines.memory_reason(with_env(run, host="node-2"), run) is None
    assert machines.memory_reason(with_env(run, cuda="13.0"), run)
    assert machines.device_reason(with_env(run, cuda="13.0"), run) is None
    assert machines.memory_reason(with_env(run, gpu=None), run)


@pytest.mark.parametrize(
    ("slots", "is_same"),
    [
        ([(1, 2), (2, 1)], True),  # two cores
        ([(1, 3), (2, 1)], True),  # three: one remains unused
        ([(1, 2), (4, 1)], True),  # two, which four processes share
        ([(1, 8), (2, 1)], False),
        ([(2, 4), (2, 2)], False),
        ([(1, 1), (1, 2)], False),
    ],
)
def test_parallelisms_share_the_cores_of_a_slot(study, slots, is_same):
    run = study.entries[0].done[0]
    runs = [with_env(run, world_size=n, threads=threads) for n, threads in slots]
    assert (speed_reason(*runs) is None) == is_same


def test_a_run_without_environment_is_compared_with_its_like_only(study):
    run = study.entries[0].done[0]
    unknown = replace(run, env=None)
    assert speed_reason(unknown, unknown) is None
    assert "unknown" in speed_reason(unknown, run)


def test_a_run_resumed_on_another_machine_has_no_speed(study):
    run = study.entries[0].done[0]
    moved = with_env(run, earlier_machines=["node-2: Another CPU"])
    assert speed_reason(moved, run) is None  # it started again from step 0
    resumed = replace(moved, probes=run.measured.model_copy(update={"resumed_at": [4]}))
    assert "node-2: Another CPU" in speed_reason(resumed, run)


def test_a_compiled_run_that_resumed_has_another_training_time(study):
    run = with_env(study.entries[0].done[0], compile=True)
    resumed = replace(run, probes=run.measured.model_copy(update={"resumed_at": [4]}))
    assert "compiled again" in machines.train_time_reason(resumed, run)
    assert speed_reason(resumed, run) is None
    assert machines.train_time_reason(resumed, resumed) is None
    eager = with_env(resumed, compile=False)
    assert machines.train_time_reason(eager, with_env(run, compile=False)) is None


def at(run, start, end):
    def stamp(seconds):
        return datetime.fromtimestamp(seconds, UTC).isoformat()

    return replace(run, started_at=stamp(start), ended_at=stamp(end))


def test_runs_that_overlap_on_a_host_share_it(study):
    first, second, third = (entry.done[0] for entry in (*study.entries, study.entries[0]))

    def shared(*spans, hosts=("node-1",) * 3):
        runs = [
            with_env(at(run, *span), host=host)
            for run, span, host in zip((first, second, third), spans, hosts, strict=True)
        ]
        return [run.shares_machine for run in with_sharing(runs)]

    assert shared((0, 10), (10, 20), (20, 30)) == [False] * 3
    assert shared((0, 10), (5, 15), (20, 30)) == [True, True, False]
    assert shared((0, 100), (97, 200), (200, 300)) == [False] * 3  # 3 % of its time
    assert shared((0, 10), (0, 10), (20, 30)) == [False] * 3  # a copy of the same results
    assert shared((0, 10), (5, 15), (7, 9), hosts=("a", "b", "c")) == [False] * 3


@pytest.mark.parametrize("sharing", [{OTHER}, {BASE}, {OTHER, BASE}])
def test_a_run_on_a_shared_machine_has_no_speed(study, sharing):
    """Its loss counts. It makes no difference which of the two shared, or whether both did."""
    loss = test_hypotheses(study)["val_loss"].entries[OTHER]
    made = changed(study, lambda run: replace(run, shares_machine=run.spec.entry in sharing))
    base, entry = made.entries
    assert compare_speeds(entry, base) == "shared machine"
    tests = test_hypotheses(made)
    assert tests["val_loss"].entries[OTHER].verdict == loss.verdict
    assert OTHER not in tests["tokens_per_s"].entries
    assert {caveat.kind for caveat in machines.caveats(made)} == {"shared-machine"}
    assert "shared machine" in summary.summarize(made, "now").without_speed.values()


@pytest.mark.parametrize("name", GALLERY)
def test_a_study_on_shared_machines_is_reported(name, tmp_path, monkeypatch, no_figures):
    """Without any verdict on times or ranking by time."""
    monkeypatch.setattr("os.fsync", lambda fd: None)
    monkeypatch.setattr(sharing, "_is_shared", lambda run, shared: True)
    _, found, _ = written(GALLERY[name](tmp_path / "results"))
    assert all(row["tokens_per_s_ratio"] is None for row in found["comparisons"])
    assert not [row for row in found["rankings"] if row["budget_kind"] == "train_s"]


def test_the_launcher_knows_of_other_runs_that_end_elsewhere(study):
    """Other studies share a machine as well, and leave no run here that overlaps."""
    run = study.entries[0].done[0]
    marked = with_sharing([with_env(run, timing=timing) for timing in ("shared", "exclusive")])
    assert [run.shares_machine for run in marked] == [True, False]


def test_a_timing_run_measures_what_the_shared_one_cannot(study):
    alone = test_hypotheses(study)["tokens_per_s"].entries[OTHER]

    def share(run):
        noisy = faster(run) if run.seed else run
        return replace(noisy, shares_machine=True, timing_run=run)

    made = changed(study, share)
    result = test_hypotheses(made)["tokens_per_s"].entries[OTHER]
    assert (result.verdict, result.difference) == (alone.verdict, alone.difference)
    assert not list(machines.caveats(made)) and not summary.summarize(made, "now").without_speed
    assert not any(row.budget_kind == "train_s" for row in summary.budgets.rankings(made))
    beside = changed(made, lambda run: replace(run, timing_run=share(run.timing_run)))
    assert {caveat.kind for caveat in machines.caveats(beside)} == {"shared-machine"}


def copy_as_timing_runs(store, change):
    """Store a copy of each run as its timing run, with one value of a file changed."""
    file, key, value = change
    for run in store.runs("tiny"):
        shutil.copytree(run.path, run.timing_run.path)
        path = run.timing_run.path / file
        content = json.loads(path.read_text()) | {key: value}
        path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "is_used"),
    [
        (("env.json", "timing", "exclusive"), True),
        (("spec.json", "code_hash", "older"), False),
        (("status.json", "status", "failed"), False),
        (("status.json", "status", "no state"), False),  # damaged: the run itself is still read
    ],
)
def test_a_stored_timing_run_counts_if_it_is_of_the_run(one_axis, change, is_used):
    store = one_axis.write().store
    copy_as_timing_runs(store, change)
    study = dataset.read(store, "tiny")
    assert study.runs and not study.unreadable
    assert {run.timing_run is not None for run in study.runs} == {is_used}


JOB = {"job": "7_1", "host": "node-1", "cpu": "A CPU"}


def test_jobs_are_compared_on_nodes_of_one_type(study):
    def place(run):
        return with_env(run, **JOB | {"host": f"node-{run.spec.entry}", "job": run.run_id})

    made = changed(study, place)
    assert compare_speeds(*reversed(made.entries)) is None
    by_hand = changed(made, lambda run: with_env(run, job=None))
    assert "other host" in compare_speeds(*reversed(by_hand.entries))


@pytest.mark.parametrize("field", ["cpu", "cores", "gpu"])
def test_jobs_on_several_types_of_nodes_have_no_speed(study, field):
    """Also if each seed used one type for both entries."""
    value = {"cpu": "Another CPU", "cores": 64, "gpu": "A GPU"}[field]

    def place(run):
        return with_env(run, **JOB | ({field: value} if run.seed == 1 else {}))

    made = changed(study, place)
    assert "2 types of nodes" in compare_speeds(*reversed(made.entries))
    assert OTHER not in test_hypotheses(made)["tokens_per_s"].entries
    row = summary.metrics.comparisons(made)[0]
    assert row.tokens_per_s_ratio is None
    assert row.peak_memory_ratio or field == "gpu"


def test_the_report_states_the_machines_and_no_verdict(one_axis, no_figures):
    one_axis.env = {OTHER: {"host": "node-2", "cpu": "Another CPU"}}
    page, found, _ = written(one_axis.write())
    reason = "other host (node-2, node-1); other processor (Another CPU, Example CPU @ 2.4 GHz)"
    assert f"Throughput not comparable, {reason}" in page
    assert "The runs used 2 machines (node-1: Example CPU @ 2.4 GHz, node-2: Another CPU)." in page
    (row,) = found["comparisons"]
    assert (row["speed_not_comparable"], row["tokens_per_s_ratio"]) == (reason, None)
    assert "Highest throughput: mha" in page
    assert "x throughput" not in page


def test_the_report_lists_jobs_by_the_type_of_their_host(one_axis, no_figures):
    """One environment for all runs of one type, not one for each job."""
    for entry, seed in itertools.product((BASE, OTHER), one_axis.seeds):
        place = {"job": f"{seed}_{entry}", "host": f"node-{seed}{entry}", "devices": f"{seed}"}
        one_axis.env[f"{entry}-s{seed}"] = place
    page, found, _ = written(one_axis.write())
    n_runs = 2 * len(one_axis.seeds)
    assert f"{n_runs} runs ran as jobs, on {n_runs} hosts of 1 type (Example CPU" in page
    assert "The runs used" not in page and "Settings that differ between runs" not in page
    (environment,) = found["environments"]
    assert len(environment["runs"]) == n_runs and environment["env"]["job"] is None
    assert found["comparisons"][0]["tokens_per_s_ratio"]
