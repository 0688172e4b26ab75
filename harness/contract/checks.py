"""Run named checks in their order; a check that needs another one is skipped if that failed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from harness.contract.violation import Violation, raised
from variants import global_state
from variants.errors import CODE_ERRORS, loaded_files


class SkipCheck(Exception):
    """A check does not apply; the message gives the reason."""


@dataclass(frozen=True)
class Check:
    """A check: its name, the function that finds violations, and checks that must have passed."""

    name: str
    find: Callable[[], list[Violation]]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check; `message` gives the violations, or why it was skipped."""

    name: str
    outcome: Literal["passed", "skipped", "failed"]
    message: str = ""
    violations: tuple[Violation, ...] = ()


def run_checks(checks: Iterable[Check]) -> list[CheckResult]:
    """Return the outcome of each check. An exception is a violation of the check that raised it."""
    results: list[CheckResult] = []
    failed: set[str] = set()
    for check in checks:
        missing = [name for name in check.needs if name in failed]
        if missing:
            message = f"needs the check `{missing[0]}`"
            results.append(CheckResult(check.name, "skipped", message))
            continue
        try:
            with global_state.guarded(f"the check `{check.name}` of {_code()}") as changes:
                violations = check.find()
        except SkipCheck as reason:
            results.append(CheckResult(check.name, "skipped", str(reason)))
            continue
        except CODE_ERRORS as error:
            violations = [raised(check.name, error)]
        if changes:
            violations = [*violations, Violation(check.name, f"code of {_code()} {changes}")]
        if violations:
            failed.add(check.name)
            message = "; ".join(map(str, violations))
            results.append(CheckResult(check.name, "failed", message, tuple(violations)))
        else:
            results.append(CheckResult(check.name, "passed"))
    return results


def _code() -> str:
    """Return the files of the user's variants, as a message names them."""
    return loaded_files() or "a variant"
