"""A value that is not that of its example would be paired, and give a wrong interval."""

import pytest

from harness.probes import example_scores
from harness.probes.example_scores import ExampleCollector


def samples(kind="none", **metrics):
    """Return the samples of lm-eval with these values; the i-th document has the hash of i."""
    n = len(next(iter(metrics.values())))
    rows = []
    for i in range(n):
        values = {metric: values[i] for metric, values in metrics.items()}
        rows.append({"doc_id": i, "filter": kind, "doc_hash": f"{i:064x}"[::-1], **values})
    return rows


def results(task, values, found, **more):
    return {"results": {task: values}, "samples": {task: found}} | more


def collect(*all_results):
    collector = ExampleCollector()
    reasons = {}
    for found in all_results:
        reasons |= collector.add(found)
    return collector.scores, reasons


def test_means_over_examples_are_stored_with_their_documents():
    scores, reasons = collect(
        results(
            "copy",
            {"acc,none": 0.5, "acc_stderr,none": 0.2, "f1,none": 0.25, "alias": "copy"},
            samples(acc=[1, 0, True, 0.0], f1=[0.25, 0.25, 0.5, 0.0]),
        )
    )
    (task,) = scores.tasks
    assert task.metrics == {"acc": [1, 0, 1, 0], "f1": [0.25, 0.25, 0.5, 0]}
    assert task.documents == "".join(f"{i}".ljust(16, "0") for i in range(4))
    assert reasons == {}


@pytest.mark.parametrize(
    ("value", "examples", "config", "reason"),
    [
        (2.0, [1.0, 2.0, 6.0], {}, "it is not a mean over examples"),
        (2.0, [1.0, 2.0, 3.0], {"aggregation": "median"}, "aggregated by median"),
        (0.5, [(0, 1), (1, 1)], {}, "an example has no number"),
        (0.5, [0.5, float("nan")], {"aggregation": "nanmean"}, "an example has no number"),
        (0.5, ["0", "1"], {}, "an example has no number"),
    ],
)
def test_other_metrics_have_none_and_say_why(value, examples, config, reason):
    configs = {"copy": {"metric_list": [{"metric": "m"} | config]}}
    scores, reasons = collect(
        results("copy", {"m,none": value}, samples(m=examples), configs=configs)
    )
    assert scores is None
    assert reason in reasons["copy", "m"]


def test_each_filter_has_its_own_values():
    found = [*samples("strict", em=[1, 0]), *samples("flexible", em=[1, 1])]
    scores, reasons = collect(results("gsm", {"em,strict": 0.5, "em,flexible": 1.0}, found))
    assert scores.tasks[0].metrics == {"em (strict)": [1, 0], "em (flexible)": [1, 1]}
    assert reasons == {}


def test_a_group_is_paired_if_it_is_the_mean_of_all_examples():
    def of_group(value):
        return {
            "results": {
                "all": {"acc,none": value},
                "a": {"acc,none": 1.0},
                "b": {"acc,none": 0.25},
            },
            "samples": {"a": samples(acc=[1, 1]), "b": samples(acc=[0, 0, 0, 1])},
            "group_subtasks": {"all": ["inner", "a"], "inner": ["b"]},
        }

    weighted, reasons = collect(of_group(0.5))
    assert (weighted.groups[0].parts, weighted.groups[0].metrics) == (["b", "a"], ["acc"])
    assert reasons == {}
    unweighted, reasons = collect(of_group(0.625))
    assert unweighted.groups == []
    assert reasons["all", "acc"] == "it is not the mean over all examples of the group"


def test_the_number_of_values_is_bounded(monkeypatch):
    monkeypatch.setattr(example_scores, "MAX_VALUES", 5)
    scores, reasons = collect(
        results("a", {"acc,none": 0.5}, samples(acc=[0, 1])),
        results("b", {"acc,none": 0.5}, samples(acc=[0, 1, 0, 1])),
        results("c", {"acc,none": 1.0}, samples(acc=[1, 1, 1])),
    )
    assert [task.task for task in scores.tasks] == ["a", "c"]
    assert reasons == {("b", "acc"): "examples.json has at most 5 values"}
