"""The value of each example of the metrics of lm-eval that are means over examples."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.results.records import ExampleScores, GroupExamples, TaskExamples
from harness.results.records.examples import HASH_DIGITS

Results = Mapping[str, Any]  # of `lm_eval.simple_evaluate`

MAX_VALUES = 1_000_000  # of all examples and metrics of a run
MEANS = ("mean", "nanmean")  # aggregations of lm-eval, as task files name them
ROUNDING = 1e-9  # relative to the largest value: lm-eval adds the values up in another order


def metric_name(metric: str, kind: str) -> str:
    """Return the name of a metric of lm-eval, with its filter if it has one."""
    return metric if kind == "none" else f"{metric} ({kind})"


def metric_values(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Yield metric, filter and value of each metric in the results of a task."""
    for key, value in metrics.items():
        metric, _, kind = key.partition(",")
        if kind and not metric.endswith("_stderr") and isinstance(value, int | float):
            yield metric, kind, value


class ExampleCollector:
    """Collect the values of the examples from the results of one task after the other."""

    def __init__(self) -> None:
        self._tasks: dict[str, TaskExamples] = {}
        self._groups: dict[str, GroupExamples] = {}
        self._n_values = 0

    @property
    def scores(self) -> ExampleScores | None:
        """All values so far; None without any."""
        if not self._tasks:
            return None
        return ExampleScores(tasks=list(self._tasks.values()), groups=list(self._groups.values()))

    def add(self, results: Results) -> dict[tuple[str, str], str]:
        """Add the results of a task or group.

        Return why a metric has no values by example, by task and name of the metric.
        """
        reasons: dict[tuple[str, str], str] = {}
        for task, samples in (results.get("samples") or {}).items():
            if task not in self._tasks:
                reasons |= self._add_task(task, samples, results)
        for group in results.get("group_subtasks") or {}:
            if group in results["results"] and group not in self._tasks:
                reasons |= self._add_group(group, results)
        return reasons

    def _add_task(
        self, task: str, samples: Sequence[Mapping[str, Any]], results: Results
    ) -> dict[tuple[str, str], str]:
        reasons = {}
        documents = ""
        metrics: dict[str, list[float]] = {}
        for metric, kind, value in metric_values(results["results"][task]):
            name = metric_name(metric, kind)
            of_filter = [sample for sample in samples if sample["filter"] == kind]
            own_documents = "".join(sample["doc_hash"][:HASH_DIGITS] for sample in of_filter)
            documents = documents or own_documents
            found: list[Any] = [sample.get(metric) for sample in of_filter]
            reason = _aggregated(metric, results.get("configs", {}).get(task, {}))
            reason = reason or _not_a_mean(found, value)
            if reason is None and own_documents != documents:
                reason = "its examples are not those of the task's first metric"
            if reason is None and self._n_values + len(found) > MAX_VALUES:
                reason = f"examples.json has at most {MAX_VALUES:,} values"
            if reason is not None:
                reasons[task, name] = reason
                continue
            metrics[name] = [float(number) for number in found]
            self._n_values += len(found)
        if metrics:
            self._tasks[task] = TaskExamples(task=task, documents=documents, metrics=metrics)
        return reasons

    def _add_group(self, group: str, results: Results) -> dict[tuple[str, str], str]:
        reasons = {}
        metrics = []
        parts = list(dict.fromkeys(_leaves(group, results["group_subtasks"])))
        for metric, kind, value in metric_values(results["results"][group]):
            name = metric_name(metric, kind)
            pooled: list[float] = []
            for part in parts:
                stored = self._tasks.get(part)
                pooled += stored.metrics.get(name, [math.nan]) if stored else [math.nan]
            if not all(map(math.isfinite, pooled)):
                reasons[group, name] = "a task of the group has no values by example"
            elif _not_a_mean(pooled, value):
                reasons[group, name] = "it is not the mean over all examples of the group"
            else:
                metrics.append(name)
        if metrics:
            self._groups[group] = GroupExamples(task=group, parts=parts, metrics=metrics)
        return reasons


def _aggregated(metric: str, config: Mapping[str, Any]) -> str | None:
    """Return the aggregation that a task's file names, unless it is a mean."""
    for settings in config.get("metric_list") or ():
        aggregation = settings.get("aggregation")
        is_named = settings.get("metric") == metric and isinstance(aggregation, str)
        if is_named and aggregation not in MEANS:
            return f"it is not a mean over examples, but aggregated by {aggregation}"
    return None


def _not_a_mean(found: Sequence[Any], value: float) -> str | None:
    """Return why these are not values of examples whose mean is `value`; None if they are."""
    for number in found:
        try:
            is_number = not isinstance(number, str) and math.isfinite(number)
        except (TypeError, ValueError):
            is_number = False
        if not is_number:
            return "an example has no number"
    numbers = [float(number) for number in found]
    largest = max(map(abs, numbers), default=0.0)
    if not numbers or abs(math.fsum(numbers) / len(numbers) - value) > ROUNDING * largest:
        return "it is not a mean over examples"
    return None


def _leaves(group: str, subtasks: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield the tasks of a group and of the groups in it."""
    for name in subtasks.get(group) or ():
        if subtasks.get(name):
            yield from _leaves(name, subtasks)
        else:
            yield name
