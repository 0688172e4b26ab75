"""If these failed, runs would be mixed, silently dropped or assigned to another entry."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from synthetic_results import SIZES

from harness.analysis import dataset
from harness.errors import UserError
from harness.results.files import read_lines, write_json
from harness.results.records import LaunchRecord, StepRecord


def test_entries_are_sorted_by_axes_baseline_first(fake):
    fake.axes = {"attention": ["gqa10", "gqa2", "mha"], "parallelism": ["fsdp2", "single"]}
    fake.baseline, fake.seeds = {"attention": "mha", "parallelism": "single"}, (1, 0)
    study = dataset.read(fake.write().store, "tiny")
    assert study.levels == {
        "attention": ("mha", "gqa2", "gqa10"),
        "optimizer": ("adamw",),
        "parallelism": ("single", "fsdp2"),
    }
    assert [entry.label for entry in study.entries][:3] == [
        "mha-single",
        "mha-fsdp2",
        "gqa2-single",
    ]
    assert [run.seed for run in study.entries[0].runs] == [0, 1]


def test_the_slowest_rank_counts_and_warm_up_does_not(fake):
    fake.axes = {"parallelism": ["ddp2"]}
    fake.write()
    run = dataset.read(fake.store, "tiny").entries[0].runs[0]
    folder = fake.store.runs("tiny")[0].path
    step_s = np.array(
        [
            [line.step_s for line in read_lines(folder / f"steps.rank{rank}.jsonl", StepRecord)]
            for rank in (0, 1)
        ]
    )
    assert (step_s[0] > step_s[1]).any() and (step_s[1] > step_s[0]).any()
    assert run.timed_step_s == pytest.approx(step_s.max(axis=0)[fake.n_warmup :])


@pytest.mark.parametrize(("n_saving", "n_timed"), [(0, 10), (1, 9), (5, 5), (6, 10), (10, 10)])
def test_steps_beside_a_write_are_timed_only_if_most_are(one_axis, n_saving, n_timed):
    """A checkpoint is written by the cores that train; a run that always writes has a speed, too.

    Steps of the warm-up never count.
    """
    one_axis.steps = one_axis.n_warmup + 10
    one_axis.write()
    run = dataset.read(one_axis.store, "tiny").entries[0].runs[0]
    saving = np.zeros(len(run.steps), dtype=bool)
    saving[: one_axis.n_warmup + n_saving] = True
    run = replace(run, steps=replace(run.steps, saving=saving))
    assert run.timed_step_s.tolist() == run.steps.step_s[-n_timed:].tolist()


def test_other_settings_are_left_out_and_counted(one_axis):
    one_axis.settings_hash = "old"
    one_axis.write()
    one_axis.settings_hash, one_axis.seeds = "new", (0,)
    one_axis.write()
    study = dataset.read(one_axis.store, "tiny")
    assert study.settings_hash == "new"
    assert {run.spec.settings_hash for run in study.runs} == {"new"}
    assert (len(study.runs), study.left_out) == (2, 6)


def test_newest_launch_selects_the_settings(one_axis):
    one_axis.settings_hash = "a"
    order_a = [run.run_id for run in one_axis.write().store.runs("tiny")]
    one_axis.settings_hash = "b"
    one_axis.write()
    one_axis.store.record_launch("tiny", LaunchRecord(command="again", order=order_a[:1]))
    assert dataset.read(one_axis.store, "tiny").settings_hash == "a"


def test_a_launch_that_found_all_done_decides_too(one_axis):
    for one_axis.settings_hash in ("a", "b"):
        one_axis.write()
    one_axis.store.record_launch("tiny", LaunchRecord(command="again", order=[], settings_hash="a"))
    study = dataset.read(one_axis.store, "tiny")
    assert (study.settings_hash, {run.spec.settings_hash for run in study.runs}) == ("a", {"a"})


def test_without_launches_the_newest_started_run_decides(one_axis):
    for one_axis.settings_hash in ("z", "a"):
        one_axis.write()
    (one_axis.root / "tiny" / "launches.jsonl").unlink()
    assert dataset.read(one_axis.store, "tiny").settings_hash == "a"


def test_same_label_with_other_options_is_superseded(one_axis):
    """Runs of a changed `local` window must not be averaged with those of the old one."""
    one_axis.write()
    old = one_axis.store.runs("tiny")[0]
    spec = old.spec.model_dump() | {"run_id": "newer", "seed": 0}
    spec["axes"] = spec["axes"] | {
        "attention": spec["axes"]["attention"] | {"options": {"window": 9}}
    }
    newer = one_axis.store.run("tiny", "newer")
    shutil.copytree(old.path, newer.path)
    write_json(newer.path / "spec.json", spec)
    one_axis.store.record_launch("tiny", LaunchRecord(command="again", order=["newer"]))
    study = dataset.read(one_axis.store, "tiny")
    entry = next(entry for entry in study.entries if entry.label == spec["entry"])
    assert [run.run_id for run in entry.runs] == ["newer"]
    assert study.superseded == 3


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("spec.json", "{"),
        ("spec.json", '{"schema_version": 99}'),
        ("spec.json", "[]"),
        ("spec.json", "{}"),
        ("status.json", "{}"),
        ("eval.jsonl", "no json\n"),
        ("eval.jsonl", ""),
        ("steps.rank0.jsonl", '{"step": 0}\n'),
        ("probes.json", "{}"),
    ],
)
def test_a_damaged_run_is_named_and_the_others_are_read(one_axis, file, content):
    one_axis.write()
    damaged = one_axis.store.runs("tiny")[0]
    (damaged.path / file).write_text(content)
    study = dataset.read(one_axis.store, "tiny")
    assert [item.name for item in study.unreadable] == [damaged.run_id]
    assert study.unreadable[0].why
    assert len(study.runs) == 5


def test_damaged_launches_are_named(one_axis):
    (one_axis.write().root / "tiny" / "launches.jsonl").write_text("no json\n")
    study = dataset.read(one_axis.store, "tiny")
    assert [item.name for item in study.unreadable] == ["launches.jsonl"]
    assert len(study.runs) == 6


def test_a_last_loss_that_is_not_finite_is_a_failure(one_axis):
    run = one_axis.write().store.runs("tiny")[0]
    with open(run.path / "eval.jsonl", "a") as file:
        file.write(
            '{"step": 12, "val_loss": null, "bits_per_byte": null, "train_s": 1.0, "eval_s": 0.1}\n'
        )
    study = dataset.read(one_axis.store, "tiny")
    broken = next(found for found in study.runs if found.run_id == run.run_id)
    assert (broken.status, broken.reason) == ("failed", "nan")


def test_status_is_one_word_or_counts(one_axis):
    one_axis.outcome = {"learned-gqa2-single-s1": ("failed", "oom", "no memory")}
    mha, gqa = dataset.read(one_axis.write().store, "tiny").entries
    assert mha.status == "done"
    assert gqa.status == {"done": 2, "failed": 1}


def test_missing_results_name_the_command(fake):
    fake.write()
    with pytest.raises(UserError, match=r"'tyny' has no results.*harness run.*did you mean 'tiny'"):
        dataset.read(fake.store, "tyny")


def test_without_compare_every_axis_is_asked(sizes):
    study = dataset.read(sizes.write().store, "tiny")
    assert (study.asked, study.contexts) == (["positional", "size"], [])
    against = {entry.label: study.baseline_of(entry) for entry in study.entries}
    assert against.pop("learned-M") is None
    assert {base.label for base in against.values()} == {"learned-M"}
    assert study.levels["size"] == ("M", "S", "L")


def test_the_baseline_has_the_entrys_own_context(sizes):
    sizes.compare = ["positional"]
    study = dataset.read(sizes.write().store, "tiny")
    assert (study.asked, study.contexts) == (["positional"], ["size"])
    against = {}
    for entry in study.entries:
        assert study.context_of(entry) == {"size": entry.axes["size"]}
        base = study.baseline_of(entry)
        against[entry.label] = base.label if base else None
    assert against == {
        **{f"learned-{size}": None for size in SIZES},
        **{f"rope-{size}": f"learned-{size}" for size in SIZES},
    }
    assert study.levels["size"] == ("S", "M", "L")  # by their settings, not by name
    assert [len(entries) for entries in study.by_context().values()] == [2, 2, 2]


def test_tuning_is_context_without_compare(fake):
    fake.axes = {"positional": ["learned", "rope"], "tuning": ["untuned", "tuned"]}
    fake.settings = {"tuning": {"untuned": {}, "tuned": {"train.lr": 3e-3}}}
    fake.baseline = {"positional": "learned", "tuning": "untuned"}
    study = dataset.read(fake.write().store, "tiny")
    assert (study.asked, study.contexts) == (["positional"], ["tuning"])
    by_label = {entry.label: entry for entry in study.entries}
    assert study.baseline_of(by_label["rope-tuned"]) is by_label["learned-tuned"]


def test_the_newest_launch_of_these_settings_names_the_asked_axes(sizes):
    sizes.compare = ["positional"]
    sizes.write()
    launch = LaunchRecord(command="", order=[], settings_hash=sizes.settings_hash)
    sizes.store.record_launch("tiny", launch.model_copy(update={"compare": ["size"]}))
    other = launch.model_copy(update={"settings_hash": "other", "compare": ["positional"]})
    sizes.store.record_launch("tiny", other)
    study = dataset.read(sizes.store, "tiny")
    assert (study.asked, study.contexts) == (["size"], ["positional"])


def test_runs_of_a_label_with_other_settings_are_superseded(sizes):
    """The settings hash omits what varies; an edited level is not averaged with the old one."""
    sizes.compare = ["positional"]
    sizes.write()
    other = sizes.settings["size"] | {"S": {"model.n_embd": 96, "train.lr": 1e-3}}
    sizes.settings = {"size": other}
    sizes.overrides = {"train.warmup_steps": 3}  # an expression that the sections state
    sizes.seeds = (0, 1)
    old = {run.run_id for run in sizes.store.runs("tiny")}
    for seed in sizes.seeds:
        for labels in (("learned", "S"), ("rope", "S"), ("rope", "M")):
            shutil.rmtree(sizes.store.run("tiny", f"{'-'.join(labels)}-s{seed}-c0ffee").path)
            sizes.run(labels, seed)
    assert old == {run.run_id for run in sizes.store.runs("tiny")}
    launch = LaunchRecord(
        order=[f"{name}-s{seed}-c0ffee" for name in ("rope-S", "rope-M") for seed in (0, 1)],
        settings_hash=sizes.settings_hash,
        compare=["positional"],
    )
    sizes.store.record_launch("tiny", launch)
    study = dataset.read(sizes.store, "tiny")
    seeds = {entry.label: [run.seed for run in entry.runs] for entry in study.entries}
    assert seeds["rope-S"] == seeds["rope-M"] == [0, 1]
    assert seeds["rope-L"] == [0, 1, 2]
    for label in ("rope-S", "rope-M"):
        entry = next(entry for entry in study.entries if entry.label == label)
        assert {run.spec.train.warmup_steps for run in entry.runs} == {3}
