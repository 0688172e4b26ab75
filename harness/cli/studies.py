"""Read the study that a command names."""

import contextlib
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from harness.cli.output import log
from harness.errors import UserError, choices
from variants.errors import loaded_files

if TYPE_CHECKING:
    from harness.config import PlannedStudy, UntilResolved


def load_study(
    path: Path,
    settings: list[str] | None,
    seeds: str | None,
    where: list[str] | None,
    until: "UntilResolved | None" = None,
) -> "PlannedStudy":
    """Read and check a study file with the overrides of the command line.

    Raises:
        UserError: the study is invalid, or a variant changes what all variants share.
        typer.BadParameter: `seeds` are not integers.
    """
    from harness import config
    from variants import global_state

    guarded = global_state.guarded(f"code that {path} uses")
    with contextlib.redirect_stdout(sys.stderr), guarded as changes:  # variants may print
        planned = config.load(path, settings or (), _parse_seeds(seeds), where or (), until)
    if changes:
        raise UserError(f"{path}: code of {loaded_files()} {changes}")
    if planned.note:
        log(planned.note)
    return planned


def refuse_options(place: Path, reason: str, **options: object) -> None:
    """Raise a `UserError` if an option is given that does not apply to this argument."""
    given = [f"--{name}" for name, value in options.items() if value not in (None, [])]
    if given:
        raise UserError(f"{place}: {' and '.join(given)}: {reason}")


def _parse_seeds(text: str | None) -> list[int] | None:
    from harness.results.records.base import SEEDS_END

    if text is None:
        return None
    try:
        seeds = [int(seed) for seed in text.split(",")]
    except ValueError as error:
        message = f"{text[:100]!r}: must be integers with commas between them, e.g. 0,1,2"
        raise typer.BadParameter(message, param_hint="--seeds") from error
    if not all(0 <= seed < SEEDS_END for seed in seeds):
        message = f"{text[:100]!r}: each must be at least 0 and less than {SEEDS_END:,}"
        raise typer.BadParameter(message, param_hint="--seeds")
    return seeds


def study_name(text: str) -> str:
    """Return the name of a study that is given by its file or by its name.

    Raises:
        UserError: the file cannot be read, or states no name; or the name is none.
    """
    from harness.results.files import check_regular
    from harness.results.manage import check_study_name

    if not text.endswith(".toml"):
        return check_study_name(text)
    try:
        check_regular(Path(text))
        name = tomllib.loads(Path(text).read_text(encoding="utf-8-sig"))["study"]["name"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{text}: cannot read study.name: {error}") from error
    return check_study_name(str(name))


def study_file(text: str) -> Path | None:
    """Return the path of a study that is given by its file, None if it is given by its name."""
    return Path(text) if text.endswith(".toml") else None


def no_results(results: Path, study: str | None = None, known: Iterable[str] = ()) -> UserError:
    """Return the error that a study, or any, has no results; `known` are the studies that have."""
    file = study if study and study.endswith(".toml") else "STUDY.toml"
    hint = f" ({choices(study_name(study), known)})" if study else ""
    return UserError(
        f"no results of {study or 'any study'} in {results}; "
        f"run it first: python -m harness run {file}{hint}"
    )
