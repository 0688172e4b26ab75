"""Without these, the report would compare scores of other tasks, metrics, seeds or examples."""

import csv
import hashlib

import numpy as np
import pytest
from reported import GQA, MHA, plant, run_of, two_entries, written

import harness
from harness.analysis import dataset, tasks
from harness.results.records import ExampleScores
from harness.results.records.study_summary import Unreadable
from harness.results.run_data import read_run

TASK = ("hellaswag", "acc")


@pytest.fixture
def pair(fake):
    return two_entries(fake)


def record(task, metric, value, reason=None, **more):
    return {"task": task, "metric": metric, "value": value, "examples": 8, "reason": reason} | more


def digits(document):
    return hashlib.sha256(str(document).encode()).hexdigest()[:16]


def plant_examples(fake, entry, seed, values, documents=None, groups=(), **more):
    """Store the values of examples of one metric, and their mean; return the run."""
    task, metric = TASK
    mean = float(np.mean(values))
    plant(
        fake, entry, seed, tasks=[record(task, metric, mean, **{"higher_is_better": True} | more)]
    )
    documents = range(len(values)) if documents is None else documents
    stored = {
        "task": task,
        "documents": "".join(map(digits, documents)),
        "metrics": {metric: [float(value) for value in values]},
    }
    run = run_of(fake, entry, seed)
    run.write_examples(ExampleScores.model_validate({"tasks": [stored], "groups": list(groups)}))
    return run


def scores_of(fake, label=GQA):
    study = dataset.read(fake.store, "tiny")
    return {(row.task, row.metric): row for row in tasks.scores(study)[label]}


def answers(rng, base, n_right=0, n_wrong=0):
    """Return 0 or 1 by example: those of `base` with some turned to right and to wrong."""
    changed = base.copy()
    changed[rng.choice(np.flatnonzero(base == 0), n_right, replace=False)] = 1
    changed[rng.choice(np.flatnonzero(base == 1), n_wrong, replace=False)] = 0
    return changed


def test_scores_are_paired_by_seed_task_and_metric(pair, no_figures):
    for seed, base, other in ((0, 0.25, 0.5), (1, 0.5, 0.875)):
        for entry, value in ((MHA, base), (GQA, other)):
            found = [
                record("hellaswag", "acc", 0.125),
                record("hellaswag", "acc_norm", value),
                record("mine", "score", value * 2),
            ]
            plant(pair, entry, seed, tasks=found)
    found = scores_of(pair)
    assert found.keys() == {("hellaswag", "acc"), ("hellaswag", "acc_norm"), ("mine", "score")}
    norm = found["hellaswag", "acc_norm"]
    assert (norm.value.mean, norm.difference.mean, norm.seeds) == (0.6875, 0.3125, [0, 1])
    assert (norm.over, norm.not_by_example) == ("seeds", tasks.NO_EXAMPLES)
    assert norm.verdict is None, "it is unknown which values are better"
    # t interval of 0.25 and 0.375: 0.3125 +- 12.706 * 0.0625
    assert norm.difference.ci95 == pytest.approx((0.3125 - 0.794, 0.3125 + 0.794), abs=1e-3)
    equal = found["hellaswag", "acc"]
    assert (equal.difference.mean, equal.difference.ci95) == (0, None)
    assert (equal.verdict, equal.not_tested) == (None, tasks.EQUAL_SEEDS)
    assert found["mine", "score"].difference.mean == 0.625

    text, _, folder = written(pair)
    assert "hellaswag, acc_norm" in text and "mine, score" in text
    assert "hellaswag, acc |" not in text, "one metric of each task"
    rows = list(csv.DictReader((folder / "tables/tasks.csv").read_text().splitlines()))
    assert len(rows) == 6 and {row["examples"] for row in rows} == {"8"}


def test_a_task_that_failed_is_reported_with_its_reason(pair, no_figures):
    reason = "ConnectionError: no network"
    plant(pair, MHA, 0, tasks=[record("hellaswag", "acc", 0.5)])
    plant(pair, GQA, 0, tasks=[record("hellaswag", "", None, reason)])
    text, _, _ = written(pair)
    assert f"hellaswag not defined, {reason}" in text


def test_examples_are_paired_by_content(pair):
    """Other orders, other examples and equal documents do not shift the pairs."""
    rng = np.random.default_rng(0)
    documents = [*range(97), 5, 5, 6]  # some are equal
    by_seed = []
    for seed in (0, 1):
        base = rng.random(100)
        other = rng.random(100)
        equal = [5, 6, 97, 98, 99]  # stay in order
        order = np.array([*rng.permutation(np.setdiff1d(range(100), equal)), *equal])
        plant_examples(pair, MHA, seed, [*base, 0.9], [*documents, "of the baseline"])
        shuffled = [documents[i] for i in order]
        plant_examples(pair, GQA, seed, [*other[order], 0.1], [*shuffled, "of the entry"])
        by_seed.append(other - base)
    row = scores_of(pair)[TASK]
    assert (row.examples_paired, row.over) == (100, "seeds and examples")
    assert row.difference.mean == pytest.approx(np.mean(by_seed))
    expected = tasks.crossed.over_examples(np.stack(by_seed))
    assert row.se_examples == pytest.approx(expected.se_examples)
    assert row.difference.ci95 == pytest.approx(expected.interval())


def test_scores_of_other_examples_are_not_compared(pair, no_figures):
    for entry, documents in ((MHA, range(8)), (GQA, range(10, 18))):
        for seed in (0, 1):
            plant_examples(pair, entry, seed, np.arange(8) % 2, documents)
    row = scores_of(pair)[TASK]
    assert (row.difference, row.verdict, row.examples_paired) == (None, None, 0)
    assert row.value.mean == 0.5
    assert f"not paired by example: {tasks.OTHER_EXAMPLES}" in written(pair)[0]


def test_one_seed_has_a_verdict_about_these_models(pair, no_figures):
    """40 examples of 400 turn right, 10 wrong: by example it is clear, by seed it is one value."""
    rng = np.random.default_rng(1)
    base = rng.integers(2, size=400)
    plant_examples(pair, MHA, 0, base)
    plant_examples(pair, GQA, 0, answers(rng, base, 40, 10))
    row = scores_of(pair)[TASK]
    assert (row.verdict, row.over, row.se_seeds) == ("better", "examples", None)
    # difference 30/400; standard error sqrt((50/400 - 0.075^2) / 399); t with 49 degrees of freedom
    half = 2.0096 * np.sqrt((50 / 400 - 0.075**2) / 399)
    assert row.difference.ci95 == pytest.approx((0.075 - half, 0.075 + half), rel=1e-4)
    text, summary, folder = written(pair)
    assert "better (these models)" in text and "not about the variant" in text
    (csv_row,) = (
        row
        for row in csv.DictReader((folder / "tables/tasks.csv").read_text().splitlines())
        if row["entry"] == GQA
    )
    assert (csv_row["verdict"], csv_row["over"]) == ("better", "examples")
    assert float(csv_row["difference_low"]) == row.difference.ci95[0]
    stored = next(entry for entry in summary["entries"] if entry["entry"] == GQA)
    assert stored["tasks"][0]["p_adjusted"] == row.p_adjusted


def test_two_seeds_that_disagree_are_unresolved(pair):
    """Each seed by itself is clear by example, in opposite directions: the seeds decide."""
    rng = np.random.default_rng(2)
    base = rng.integers(2, size=400)
    for seed, turned in ((0, (60, 10)), (1, (10, 30))):
        plant_examples(pair, MHA, seed, base)
        plant_examples(pair, GQA, seed, answers(rng, base, *turned))
    row = scores_of(pair)[TASK]
    assert (row.verdict, row.over) == ("unresolved", "seeds and examples")
    low, high = row.difference.ci95
    assert low < 0 < high and row.se_seeds > row.se_examples


def test_the_direction_is_that_of_the_metric(pair):
    rng = np.random.default_rng(3)
    base = rng.random(300)
    verdicts = {}
    for direction in (True, False, None):
        plant_examples(pair, MHA, 0, base, higher_is_better=direction)
        more = base + 0.1 * rng.random(300)
        plant_examples(pair, GQA, 0, more, higher_is_better=direction)
        row = scores_of(pair)[TASK]
        assert row.difference.ci95[0] > 0
        verdicts[direction] = row.verdict
    assert verdicts == {True: "better", False: "worse", None: None}


def test_an_entry_that_lost_a_seed_is_not_better(pair):
    rng = np.random.default_rng(4)
    base = rng.integers(2, size=400)
    for turned, expected in (((40, 5), "unresolved"), ((5, 40), "worse")):
        plant_examples(pair, MHA, 0, base)
        plant_examples(pair, GQA, 0, answers(rng, base, *turned))
        run_of(pair, GQA, 1).finish("failed", "nan", "the loss is not finite")
        row = scores_of(pair)[TASK]
        assert row.verdict == expected
        assert (row.difference.ci95 is None) == (expected == "unresolved")


def test_equal_answers_give_no_verdict(pair, no_figures):
    """No example differs among 8: that is no evidence of a difference, nor of equivalence."""
    for entry in (MHA, GQA):
        for seed in (0, 1):
            plant_examples(pair, entry, seed, [0, 1] * 4)
    row = scores_of(pair)[TASK]
    assert (row.difference.mean, row.difference.ci95, row.verdict) == (0, None, None)
    assert f"not tested: {tasks.EQUAL_EXAMPLES}" in written(pair)[0]


def test_a_group_pools_the_examples_of_its_tasks(pair):
    group = {"task": "all", "parts": ["hellaswag"], "metrics": ["acc"]}
    for entry, values in ((MHA, [0.1, 0.5, 0.9]), (GQA, [0.2, 0.7, 1.2])):
        run = plant_examples(pair, entry, 0, values, groups=[group])
        found = [record("all", "acc", float(np.mean(values)))]
        plant(pair, entry, 0, tasks=found)
        assert read_run(run).examples["all", "acc"].value.tolist() == values
    frame = harness.load(pair.root, study="tiny").examples
    means = frame[frame["task"] == "all"].groupby("entry", observed=True)["value"].mean()
    assert (means[MHA], means[GQA]) == pytest.approx((0.5, 0.7))
    assert len(frame) == 12 and frame["document"].nunique() == 3
    row = scores_of(pair)["all", "acc"]
    assert (row.over, row.examples_paired) == ("examples", 3)
    assert row.difference.mean == pytest.approx(0.2)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-20],
        lambda text: text.replace('"documents":"', '"documents":"0'),
        lambda text: text.replace('"acc":[', '"acc":[0.5,'),
        lambda text: text.replace(
            '"groups":[]', '"groups":[{"task":"a","parts":["b"],"metrics":[]}]'
        ),
    ],
)
def test_a_damaged_file_drops_its_run_by_name(pair, change):
    run = plant_examples(pair, GQA, 0, [0, 1, 1])
    path = run.path / "examples.json"
    changed = change(path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    found = read_run(run)
    assert isinstance(found, Unreadable) and "examples.json" in found.why
