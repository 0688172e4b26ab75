"""`run` of a study that tunes: trials first, then final runs; resumed at any point."""

import json

import numpy as np
import pytest
from command_line import Harness
from planted_runs import PlantedRuns, finish

from harness import config, load
from harness.analysis import dataset
from harness.cli.stages import read_progress
from harness.errors import ExitCode
from harness.results.store import Store

TUNE = """
[tune]
axes = { "train.lr" = [1e-3, 3e-3, 1e-2] }
seeds = [100, 101]
"""
OPTIMA = {"learned": 3e-3, "rope": 1e-2}  # of the planted losses


class PlantedTrials(PlantedRuns):
    """Ends each run with a loss that is lowest at the entry's optimal rate."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: dict[str, str] = {}  # label of the axis `tuning` -> reason

    def plant(self, run) -> None:
        spec = run.spec
        reason = self.failures.get(spec.axes["tuning"].label)
        if reason is not None:
            run.finish("failed", reason, "as planted")
            return
        lr = spec.train.lr
        distance = np.log10(lr / OPTIMA[spec.axes["positional"].label])
        loss = 1.5 + distance**2 + 0.01 * (spec.seed % 10) + 1 / spec.train.steps
        finish(run, loss)


@pytest.fixture
def planted(start_runs_by) -> PlantedTrials:
    return start_runs_by(PlantedTrials())


@pytest.fixture
def harness(tmp_path):
    harness = Harness(tmp_path)
    path = harness.study('["learned", "rope"]')
    path.write_text(path.read_text() + TUNE)
    yield harness
    harness.stop()


def store(harness) -> Store:
    return Store(harness.folder / "results")


def stored(harness) -> dict[str, object]:
    return {run.run_id: run for run in harness.runs()}


def finals(harness, label: str) -> list:
    specs = [run.spec for run in harness.runs()]
    return [spec for spec in specs if spec.tuning is None and spec.axes["tuning"].label == label]


def chosen(harness) -> dict[str, float | None]:
    content = json.loads((harness.folder / "results/s/tuning.json").read_text())
    return {entry["entry"]: (entry["chosen"] or {}).get("train.lr") for entry in content["entries"]}


CHOSEN = {"learned-mha-single": 3e-3, "rope-mha-single": 1e-2}


def test_trials_choose_the_settings_of_the_final_runs(harness, planted):
    harness("run", "study.toml", settings=["train.lr=2e-3"])
    first = planted.started[:12]
    assert all(run_id.startswith("tune-") for run_id in first)
    assert len(planted.started) == 12 + 4
    assert chosen(harness) == CHOSEN
    assert {spec.train.lr for spec in finals(harness, "untuned")} == {2e-3}
    tuned = {spec.axes["positional"].label: spec.train.lr for spec in finals(harness, "tuned")}
    assert tuned == OPTIMA
    runs = [run.spec for run in harness.runs()]
    windows = {(spec.eval_windows, spec.seed) for spec in runs}
    assert windows == {("tuning", 100), ("tuning", 101), ("final", 0)}
    assert len({spec.settings_hash for spec in runs}) == 1
    assert {spec.baseline["tuning"] for spec in runs} == {"untuned"}
    harness("run", "study.toml", settings=["train.lr=2e-3"])
    assert len(planted.started) == 16


@pytest.mark.parametrize("n_started", [1, 11, 12, 14])
def test_an_interrupted_study_resumes_at_any_point(harness, planted, n_started):
    planted.stop_after = n_started
    with pytest.raises(KeyboardInterrupt):
        harness("run", "study.toml", settings=["train.lr=2e-3"])
    planted.stop_after = None
    harness("run", "study.toml", settings=["train.lr=2e-3"])
    assert len(planted.started) == len(set(planted.started)) == 16
    assert chosen(harness) == CHOSEN


def test_a_choice_of_the_own_settings_is_not_trained_twice(harness, planted):
    finished = harness("run", "study.toml", settings=["train.lr=1e-2"])
    assert "1 tuned runs have the study's own settings" in finished.stderr
    assert len(planted.started) == 12 + 3
    (tuned,) = (s for s in finals(harness, "tuned") if s.axes["positional"].label == "rope")
    run = stored(harness)[tuned.run_id]
    assert run.status.status == "done"
    assert run.spec == tuned
    assert tuned.run_id not in planted.started


def test_a_longer_grid_keeps_the_trials_that_are_done(harness, planted):
    harness("run", "study.toml")
    n_before = len(planted.started)
    axes = 'tune.axes={"train.lr"=[1e-3, 3e-3, 1e-2, 3e-2]}'
    harness("run", "study.toml", settings=[axes])
    added = planted.started[n_before:]
    assert len(added) == 4
    assert all("lr0.03-" in run_id for run_id in added)


def test_settings_before_the_first_keep_their_trials(harness, planted):
    harness("run", "study.toml")
    axes = 'tune.axes={"train.lr"=[3e-4, 1e-3, 3e-3, 1e-2]}'
    harness("run", "study.toml", settings=[axes])
    assert chosen(harness) == CHOSEN
    trials = load(harness.folder / "results", "s").tuning
    assert trials["train.lr"].tolist() == [3e-4, 1e-3, 3e-3, 1e-2] * 2
    assert {tuple(seeds) for seeds in trials["seeds"]} == {(100, 101)}


def test_old_numbers_of_settings_do_not_choose(harness, planted):
    harness("run", "study.toml")
    n_before = len(planted.started)
    axes = 'tune.axes={"train.lr"=[1e-2, 3e-3, 1e-3]}'
    assert harness("run", "study.toml", "--dry-run", settings=[axes]).stdout == ""
    assert len(planted.started) == n_before
    progress = read_progress(
        config.load(harness.folder / "study.toml", [axes]).tuning, store(harness)
    )
    assert progress.chosen == {name: {"train.lr": lr} for name, lr in CHOSEN.items()}
    harness("run", "study.toml", settings=[axes])
    assert chosen(harness) == CHOSEN


def test_an_earlier_choice_is_reported_when_it_returns(harness, planted):
    harness("run", "study.toml")
    smaller = 'tune.axes={"train.lr"=[1e-3, 3e-3]}'
    harness("run", "study.toml", settings=[smaller])
    assert tuned_rates(harness)["rope-mha-single-tuned"] == 3e-3
    harness("run", "study.toml")
    assert tuned_rates(harness)["rope-mha-single-tuned"] == 1e-2


def tuned_rates(harness) -> dict[str, float]:
    study = dataset.read(store(harness), "s")
    return {entry.label: entry.runs[0].spec.train.lr for entry in study.entries}


def test_another_process_keeps_the_runs_of_later_stages(harness, planted):
    planted.stop_after = 12
    with pytest.raises(KeyboardInterrupt):
        harness("run", "study.toml", settings=["train.lr=2e-3"])
    before = {run.run_id for run in harness.runs()}
    planned = config.load(harness.folder / "study.toml", ["train.lr=2e-3"])
    assert len(before) == 16 and before <= planned.all_run_ids
    with pytest.raises(KeyboardInterrupt):
        harness("run", "study.toml", where=["positional=rope"], settings=["train.lr=2e-3"])
    assert {run.run_id for run in harness.runs()} == before


def test_a_tuned_run_is_repeated_without_its_trials(harness, planted, tmp_path):
    harness("run", "study.toml", settings=["train.lr=2e-3"])
    tuned = finals(harness, "tuned")[0]
    harness("reproduce", "results/s", tmp_path / "again", "--run", tuned.run_id)
    assert f"--run {tuned.run_id}" in (tmp_path / "again/run.sh").read_text()
    n_before = len(planted.started)
    arguments = ("run", "study.toml", "--run", tuned.run_id, "--results", "others")
    harness(*arguments, settings=["train.lr=2e-3"])
    assert planted.started[n_before:] == [tuned.run_id]


def test_runs_that_are_done_stay_when_a_setting_is_stated_otherwise(harness, planted):
    harness("run", "study.toml", settings=["train.min_lr=1e-4"])
    n_before = len(planted.started)
    same = ["train.min_lr=1e-4 * 1"]
    harness("run", "study.toml", "--seeds", "0,1", settings=same)
    assert len(planted.started) - n_before < 5
    runs = load(harness.folder / "results", "s").runs
    assert sorted(runs["seed"]) == [0] * 4 + [1] * 4


def test_the_baseline_is_that_of_the_newest_launch(harness, planted):
    for name in ("learned", "rope"):
        harness("run", "study.toml", settings=[f"study.baseline.positional={name}"])
        assert dataset.read(store(harness), "s").baseline["positional"] == name


def test_tuned_values_are_overridden_without_quotes(harness, planted):
    listed = harness("list", "study.toml", settings=["tune.axes.train.lr=[1e-3, 3e-3]"])
    assert "4 trials of each entry" in listed.stdout


def test_a_diverged_trial_is_a_result(harness, planted):
    planted.failures = {"lr0.01": "nan"}
    finished = harness("run", "study.toml")
    assert "4 trials diverged, which counts as an infinite loss" in finished.stderr
    assert chosen(harness) == {"learned-mha-single": 3e-3, "rope-mha-single": 3e-3}


def test_a_failed_trial_is_reported_and_may_change_the_choice(harness, planted, no_figures):
    planted.failures = {"lr0.01": "oom"}
    harness("run", "study.toml", code=ExitCode.SOME_FAILED)
    assert chosen(harness)["rope-mha-single"] == 3e-3
    planted.failures = {}
    harness("run", "study.toml", "--retry-failed", code=ExitCode.SOME_FAILED)
    assert chosen(harness) == CHOSEN
    harness("run", "study.toml")
    harness("report", "s")


def test_nothing_is_tuned_if_every_setting_failed(harness, planted):
    planted.failures = dict.fromkeys(["lr0.001", "lr0.003", "lr0.01"], "nan")
    finished = harness("run", "study.toml", code=ExitCode.SOME_FAILED)
    assert "not tuned, each of its settings has a trial that failed" in finished.stderr
    assert finals(harness, "tuned") == []
    assert len(finals(harness, "untuned")) == 2


def test_a_selection_tunes_and_trains_its_entries_only(harness, planted):
    harness("run", "study.toml", where=["positional=rope"])
    assert all("rope" in run_id for run_id in planted.started)
    assert chosen(harness) == {"learned-mha-single": None, "rope-mha-single": 1e-2}
    harness("run", "study.toml", "--seeds", "0,1", where=["positional=learned"])
    assert chosen(harness) == CHOSEN
    assert {spec.seed for spec in finals(harness, "tuned")} == {0, 1}


def test_halving_gives_every_entry_the_same_rungs(harness, planted):
    axes = 'tune.axes={"train.lr"=[1e-3, 3e-3, 1e-2, 3e-2]}'
    harness("run", "study.toml", settings=[axes, "tune.rungs=[2, 4]"])
    trials = [run.spec for run in harness.runs() if run.spec.tuning is not None]
    for label, optimum in OPTIMA.items():
        own = [spec for spec in trials if spec.axes["positional"].label == label]
        steps = sorted(spec.train.steps for spec in own)
        assert steps == [2] * 8 + [4] * 4
        kept = {spec.train.lr for spec in own if spec.train.steps == 4}
        assert optimum in kept
    tuned = finals(harness, "tuned")
    assert {spec.train.steps for spec in tuned} == {8}
    assert chosen(harness) == CHOSEN
    study = load(harness.folder / "results", "s")
    assert study.tuning["steps"].tolist() == [2, 2, 2, 2, 4, 4] * 2
    assert study.tuning_costs["n_done"].tolist() == [12, 12]


def test_a_dry_run_and_the_list_show_both_stages(harness, planted):
    dry = harness("run", "study.toml", "--dry-run")
    run_ids = dry.stdout.split()
    assert len(run_ids) == 12 + 2
    assert "the tuned runs follow when their settings are chosen" in dry.stderr
    assert planted.started == []
    assert not (harness.folder / "results/s").exists()
    table = harness("list", "study.toml").stdout
    assert "2 entries, 2 runs" in table
    assert "tuning, before these: 6 trials of each entry, 12 in all (grid of train.lr)" in table
    content = json.loads(harness("list", "study.toml", "--json").stdout)
    trials = content["tuning"]["trials"]
    assert {trial["run_id"] for trial in trials} < set(run_ids)
    assert len(content["entries"]) == 2


def test_the_list_counts_no_start_as_a_tuned_run(harness, planted):
    path = harness.folder / "study.toml"
    path.write_text(path.read_text() + "[init]\nfrom_run = { train = { steps = 2 } }\n")
    assert "after it: 2 tuned runs" in harness("list", "study.toml").stdout


def test_status_shows_how_far_the_tuning_is(harness, planted):
    planted.stop_after = 3
    with pytest.raises(KeyboardInterrupt):
        harness("run", "study.toml")
    assert (
        "tuning: 3 of 12 trials have ended, settings are chosen for 0 of 2 entries"
        in harness("status", "study.toml").stdout
    )


def test_a_damaged_record_of_the_tuning_is_made_again(harness, planted, no_figures):
    harness("run", "study.toml")
    record = harness.folder / "results/s/tuning.json"
    content = record.read_text()
    record.write_text(content[:40])
    assert "tuning.json" in harness("status", "study.toml").stdout
    harness("report", "s")
    harness("run", "study.toml")
    assert record.read_text() == content


def test_a_final_run_can_be_named_once_its_settings_are_chosen(harness, planted):
    harness("run", "study.toml")
    (tuned, _) = finals(harness, "tuned")
    n_before = len(planted.started)
    harness("run", "study.toml", "--run", tuned.run_id)
    assert len(planted.started) == n_before


def test_a_study_that_cannot_hold_windows_back_is_refused(harness, planted):
    refused = harness("run", "study.toml", settings=["train.eval_tokens=32"], code=2)
    assert "train.eval_tokens: gives 1 validation window" in refused.stderr


@pytest.mark.parametrize(("option", "key"), [("lr", "lr"), ("beta1", "beta1")])
def test_an_own_option_of_an_optimizer_is_not_tuned(harness, planted, option, key):
    path = harness.folder / "study.toml"
    own = '{ variant = "lion", lr = 1e-4 }' if option == "lr" else '"lion"'
    path.write_text(path.read_text().replace("[axes]", f'[axes]\noptimizer = ["adamw", {own}]'))
    axes = f'tune.axes={{"train.{key}"=[0.1, 0.2]}}'
    refused = harness("run", "study.toml", settings=[axes], code=2)
    assert f'tune.axes."train.{key}": the optimizer lion' in refused.stderr
    assert f"of its own, which train.{key} does not change" in refused.stderr


def test_an_invalid_trial_names_its_place(harness, planted):
    settings = ["train.min_lr=2e-3", "train.lr=1e-2"]
    refused = harness("run", "study.toml", settings=settings, code=2)
    assert 'tune.axes."train.lr": min_lr = 0.002 is above lr = 0.001' in refused.stderr
