"""`check`: run the contract of variants on a study's models, or on one variant's file."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.isolation import isolate, isolate_study
from harness.cli.options import SetOption, WhereOption
from harness.cli.output import log, show
from harness.cli.studies import load_study, refuse_options
from harness.errors import ExitCode

if TYPE_CHECKING:
    from harness.contract.checks import CheckResult

WORDS = {"passed": "ok", "skipped": "skipped", "failed": "FAILED"}

PathArgument = Annotated[
    Path,
    typer.Argument(metavar="FILE_OR_STUDY", help="A study file, or a variant's AXIS/NAME.py."),
]
OptionOption = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="An option of the variant; repeatable."),
]


def check(
    path: PathArgument,
    options: OptionOption = None,
    settings: SetOption = None,
    where: WhereOption = None,
) -> None:
    """Check a study's models, or a variant's file, against the contract of variants."""
    if path.suffix == ".py":
        refuse_options(path, "only for a study", set=settings, where=where)
        isolate()
        is_valid = _check_file(path, options or ())
    else:
        refuse_options(path, "only for a variant's file", option=options)
        isolate_study(path, settings)
        is_valid = _check_study(path, settings, where)
    if not is_valid:
        raise typer.Exit(ExitCode.INVALID)


def _check_file(path: Path, options: Sequence[str]) -> bool:
    from harness.preflight import check_file

    return _print(path.stem, check_file(path, options), with_passed=True)


def _check_study(path: Path, settings: list[str] | None, where: list[str] | None) -> bool:
    from harness.preflight import check_models, is_refused

    planned = load_study(path, settings, None, where)
    valid = []
    for model in check_models(planned.runs, log):
        _print(model.label, model.results, with_passed=False)
        valid.append(not any(is_refused(v, planned.allow) for v in model.violations))
    return all(valid)


def _print(label: str, results: "Sequence[CheckResult]", with_passed: bool) -> bool:
    """Print a checklist; return whether no check failed fatally."""
    counts = Counter(WORDS[result.outcome] for result in results)
    show(f"{label}: {', '.join(f'{n} {word}' for word, n in counts.items())}")
    for result in results:
        if with_passed or result.outcome != "passed":
            show(f"  {WORDS[result.outcome]:<8} {result.name:<20} {result.message}".rstrip())
    return not any(violation.fatal for result in results for violation in result.violations)
