"""Refuse a study with a model that violates the contract, unless the study permits it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from harness.config import PlannedStudy
from harness.contract.violation import Violation
from harness.errors import Problem, UserError
from harness.preflight.models import CAUSALITY, CheckedModel, check_models
from harness.results.records import AllowedViolation

PERMISSION: Literal["non-causal"] = "non-causal"  # in `[study] allow`: a failed causality check
MAX_PROBLEMS = 10  # more do not fit on a screen


def check_study(planned: PlannedStudy, location: str, log: Callable[[str], None]) -> PlannedStudy:
    """Check the models of all selected runs; return the study with what it permits and counts.

    Violations that make only a figure wrong are logged as warnings.

    Raises:
        UserError: a model violates the contract; it names the models and the violations.
    """
    models = check_models(planned.runs, log)
    refused = []
    warnings = []
    allowed: dict[str, list[AllowedViolation]] = {}
    counted_flops: dict[str, float | None] = {}
    for model in models:
        counted_flops |= dict.fromkeys(model.run_ids, model.flops_per_token)
        for violation in model.violations:
            if is_refused(violation, planned.allow):
                refused.append((model, violation))
            elif violation.fatal:
                permitted = AllowedViolation(kind=PERMISSION, message=str(violation))
                for run_id in model.run_ids:
                    allowed.setdefault(run_id, []).append(permitted)
            else:
                warnings.append((model, violation))
    if refused:
        raise UserError(_problems(location, refused))
    for labels, violation in _merged(warnings, by_place=False):
        log(f"warning: {labels}: {violation.check}: {violation}")
    runs = []
    for spec in planned.runs:
        counted = {"flops_per_token_counted": counted_flops[spec.run_id]}
        expected = spec.expected.model_copy(update=counted)
        update = {"allowed": allowed.get(spec.run_id, []), "expected": expected}
        runs.append(spec.model_copy(update=update))
    return replace(planned, runs=runs)


def is_refused(violation: Violation, allow: Sequence[str]) -> bool:
    """Return whether a violation refuses a study that allows these."""
    return violation.fatal and not (violation.check == CAUSALITY and PERMISSION in allow)


def _problems(
    location: str, refused: Sequence[tuple[CheckedModel, Violation]]
) -> Iterator[Problem]:
    merged = list(_merged(refused, by_place=True))
    for labels, violation in merged[:MAX_PROBLEMS]:
        remedy = ""
        if violation.check == CAUSALITY:
            remedy = f'; correct it, or permit it by [study] allow = ["{PERMISSION}"]'
        yield Problem(f"{location}: {labels}", f"{violation.check}: {violation}{remedy}")
    n_more = len(merged) - MAX_PROBLEMS
    if n_more > 0:
        yield Problem(location, f"{n_more} more; python -m harness check {location} lists all")


def _merged(
    found: Iterable[tuple[CheckedModel, Violation]], by_place: bool
) -> Iterator[tuple[str, Violation]]:
    """Yield each kind of violation once, or once for each place, with the models that have it."""
    groups: dict[tuple[str, str], list[tuple[CheckedModel, Violation]]] = {}
    for model, violation in found:
        place = violation.where if by_place else ""
        groups.setdefault((violation.check, place), []).append((model, violation))
    for group in groups.values():
        model, violation = group[0]
        n_more = len({other.label for other, _ in group}) - 1
        more = f" and {n_more} more" if n_more else ""
        yield f"{model.label}{more}", violation
