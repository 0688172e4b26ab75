"""examples.json: the values of the metrics of lm-eval for each example, of one run."""

import re
from typing import Self

from pydantic import Field, model_validator

from harness.results.records.base import Finite, StrictModel, Versioned

HASH_DIGITS = 16  # hexadecimal, of each example: 64 bits

_HEXADECIMAL = re.compile(r"[0-9a-f]*")


class TaskExamples(StrictModel):
    """The examples of one task, as columns in the order of evaluation."""

    task: str = Field(description="name of the task")
    documents: str = Field(
        description="first 16 hexadecimal digits of the SHA-256 of each example's document, joined"
    )
    metrics: dict[str, list[Finite]] = Field(
        description="value of each example, by the name of the metric as in probes.json"
    )

    @property
    def n_examples(self) -> int:
        """The number of examples."""
        return len(self.documents) // HASH_DIGITS

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if len(self.documents) % HASH_DIGITS or not _HEXADECIMAL.fullmatch(self.documents):
            raise ValueError(f"documents: must be {HASH_DIGITS} hexadecimal digits per example")
        for metric, values in self.metrics.items():
            if len(values) != self.n_examples:
                raise ValueError(f"metrics.{metric}: must have a value for each document")
        return self


class GroupExamples(StrictModel):
    """A group whose metrics are means over all examples of its tasks."""

    task: str = Field(description="name of the group")
    parts: list[str] = Field(description="its tasks, which are in `tasks`")
    metrics: list[str] = Field(description="names of these metrics")


class ExampleScores(Versioned):
    """The value of each example, of the metrics of tasks of lm-eval that are means over examples.

    A run has at most 1,000,000 values: beyond, tasks have none. Only runs with such a metric have
    the file; it takes 16 bytes for each example and 4 for each value that is 0 or 1, so 0.24 MB for
    the 10,042 examples of HellaSwag with `acc` and `acc_norm`.
    """

    tasks: list[TaskExamples] = Field(description="examples of each task")
    groups: list[GroupExamples] = Field(default=[], description="groups of these tasks")

    @model_validator(mode="after")
    def _check_groups(self) -> Self:
        by_task = {examples.task: examples for examples in self.tasks}
        for group in self.groups:
            for part in group.parts:
                if part not in by_task:
                    raise ValueError(f"groups: '{part}' has no examples")
                missing = set(group.metrics) - by_task[part].metrics.keys()
                if missing:
                    raise ValueError(f"groups: '{part}' has no {', '.join(sorted(missing))}")
        return self
