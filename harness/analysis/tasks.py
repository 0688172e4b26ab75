"""Metrics of the tasks of lm-eval for each entry, over its seeds."""

from harness.analysis import lost_seeds
from harness.analysis.dataset import Entry, StudyResults
from harness.results.records import TaskRecord
from harness.results.records.entries import TaskScore

Metric = tuple[str, str]  # task and name


def measures(study: StudyResults, entry: Entry) -> list[TaskScore]:
    """Return an entry's metrics by task; empty if the study evaluates no tasks."""
    base = study.baseline_of(entry)
    metrics: dict[Metric, None] = {}
    for run in entry.done:
        for record in run.probes.tasks if run.probes else ():
            metrics[record.task, record.metric] = None
    return [_measure(entry, base, metric) for metric in metrics]


def _measure(entry: Entry, base: Entry | None, metric: Metric) -> TaskScore:
    records = _records(entry, metric)
    values = _values(records)
    reasons = {record.reason for record in records.values() if record.reason}
    task, name = metric
    first = next(iter(records.values()))
    difference = None
    if base is not None and values:
        base_values = _values(_records(base, metric))
        difference = lost_seeds.mean_difference(entry, base, values, base_values)
    return TaskScore(
        task=task,
        metric=name,
        seeds=list(values),
        value=lost_seeds.mean(entry, list(values.values())) if values else None,
        difference=difference,
        higher_is_better=first.higher_is_better,
        examples=max(record.examples for record in records.values()),
        reason="; ".join(sorted(reasons)) or None,
    )


def _records(entry: Entry, metric: Metric) -> dict[int, TaskRecord]:
    """Return the record of a metric of each run that has it, by seed."""
    records = {}
    for run in entry.done:
        for record in run.probes.tasks if run.probes else ():
            if (record.task, record.metric) == metric:
                records[run.seed] = record
    return records


def _values(records: dict[int, TaskRecord]) -> dict[int, float]:
    return {seed: record.value for seed, record in records.items() if record.value is not None}
