"""Without these, the report would compare scores of other tasks, metrics or seeds."""

import csv

import pytest
from reported import GQA, MHA, plant, two_entries, written

from harness.analysis import dataset
from harness.analysis.tasks import measures


@pytest.fixture
def pair(fake):
    return two_entries(fake)


def record(task, metric, value, reason=None):
    return {"task": task, "metric": metric, "value": value, "examples": 8, "reason": reason}


def test_scores_are_paired_by_seed_task_and_metric(pair, no_figures):
    for seed, base, other in ((0, 0.25, 0.5), (1, 0.5, 0.875)):
        for entry, value in ((MHA, base), (GQA, other)):
            tasks = [
                record("hellaswag", "acc", 0.125),
                record("hellaswag", "acc_norm", value),
                record("mine", "score", value * 2),
            ]
            plant(pair, entry, seed, tasks=tasks)
    study = dataset.read(pair.store, "tiny")
    entry = next(entry for entry in study.entries if entry.label == GQA)
    found = {(score.task, score.metric): score for score in measures(study, entry)}
    assert found.keys() == {("hellaswag", "acc"), ("hellaswag", "acc_norm"), ("mine", "score")}
    norm = found["hellaswag", "acc_norm"]
    assert (norm.value.mean, norm.difference.mean, norm.seeds) == (0.6875, 0.3125, [0, 1])
    assert found["hellaswag", "acc"].difference.mean == 0
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
