"""What `ingest` is asked for: the table, the study, the baseline, margins and what to accept."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from harness.errors import Problem, choices
from harness.results.records import EquivalenceMargin, Superiority

Thresholds = TypeVar("Thresholds", EquivalenceMargin, Superiority)

STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True)
class IngestRequest:
    """The arguments of `ingest`.

    `baseline` is a label of the column `entry`, or items AXIS=LABEL, which make each AXIS a column
    of labels. `compare` names the axes that are asked about; None: all.
    """

    table: Path
    study: str
    baseline: Sequence[str] = ()
    margins: Sequence[str] = ()
    superiority: Sequence[str] = ()
    compare: Sequence[str] = ()
    ignore: Sequence[str] = ()
    allow_missing_seeds: bool = False
    command: str | None = None

    def problems(self) -> list[Problem]:
        """Return the problems of the study's name and of the thresholds."""
        found = []
        if not STUDY_NAME.fullmatch(self.study):
            message = "must be up to 80 letters, digits and any of . _ -; a letter or digit first"
            found.append(Problem(f"--study {self.study}", message))
        found += _thresholds("--margin", self.margins, EquivalenceMargin)[1]
        found += _thresholds("--superiority", self.superiority, Superiority)[1]
        return found

    @property
    def baseline_labels(self) -> dict[str, str] | None:
        """The baseline's label on each axis; None if `baseline` is not of the form AXIS=LABEL."""
        pairs = [item.partition("=") for item in self.baseline]
        if not pairs or not all(separator for _, separator, _ in pairs):
            return None
        return {axis.strip(): label.strip() for axis, _, label in pairs}

    @property
    def equivalence_margin(self) -> EquivalenceMargin | None:
        """The margins of equivalence; None without any."""
        return _thresholds("--margin", self.margins, EquivalenceMargin)[0]

    @property
    def superiority_thresholds(self) -> Superiority | None:
        """The thresholds of superiority; None without any."""
        return _thresholds("--superiority", self.superiority, Superiority)[0]


def _thresholds(
    option: str, items: Sequence[str], record: type[Thresholds]
) -> tuple[Thresholds | None, list[Problem]]:
    """Return the record of items METRIC=NUMBER, None without any, and their problems."""
    allowed = list(record.model_fields)
    values: dict[str, float] = {}
    problems = []
    for item in items:
        metric, _, text = item.partition("=")
        if metric not in allowed:
            problems.append(Problem(f"{option} {item}", choices(metric, allowed)))
            continue
        try:
            values[metric] = float(text)
        except ValueError:
            message = "must be METRIC=NUMBER, as in val_loss=0.005"
            problems.append(Problem(f"{option} {item}", message))
    if not values:
        return None, problems
    try:
        return record.model_validate(values), problems
    except ValidationError as error:
        for found in error.errors():
            name = ".".join(map(str, found["loc"]))
            problems.append(Problem(f"{option} {name}={values[name]:g}", found["msg"]))
        return None, problems
