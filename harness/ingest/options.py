"""What `ingest` is asked for: the table, the study, the baseline, margins and what to accept."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from harness.errors import Problem, UserError, choices
from harness.results.records import EquivalenceMargin

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
    compare: Sequence[str] = ()
    ignore: Sequence[str] = ()
    allow_missing_seeds: bool = False
    command: str | None = None

    def check(self) -> None:
        """Check the study's name.

        Raises:
            UserError: it cannot be the name of a folder.
        """
        if not STUDY_NAME.fullmatch(self.study):
            message = "must be up to 80 letters, digits and any of . _ -, and begin with no mark"
            raise UserError([Problem(f"--study {self.study}", message)])

    @property
    def baseline_labels(self) -> dict[str, str] | None:
        """The baseline's label on each axis; None if `baseline` is not of the form AXIS=LABEL."""
        pairs = [item.partition("=") for item in self.baseline]
        if not pairs or not all(separator for _, separator, _ in pairs):
            return None
        return {axis.strip(): label.strip() for axis, _, label in pairs}

    @property
    def equivalence_margin(self) -> EquivalenceMargin | None:
        """The margins of equivalence; None without any.

        Raises:
            UserError: a metric is unknown or a margin is no number within its range.
        """
        if not self.margins:
            return None
        allowed = list(EquivalenceMargin.model_fields)
        values: dict[str, float] = {}
        problems = []
        for item in self.margins:
            metric, _, text = item.partition("=")
            if metric not in allowed:
                problems.append(Problem(f"--margin {item}", choices(metric, allowed)))
                continue
            try:
                values[metric] = float(text)
            except ValueError:
                message = "must be METRIC=NUMBER, as in val_loss=0.005"
                problems.append(Problem(f"--margin {item}", message))
        try:
            margin = EquivalenceMargin.model_validate(values)
        except ValidationError as error:
            for found in error.errors():
                name = ".".join(map(str, found["loc"]))
                problems.append(Problem(f"--margin {name}={values[name]}", found["msg"]))
        if problems:
            raise UserError(problems)
        return margin
