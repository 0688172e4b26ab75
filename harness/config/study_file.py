"""The schema of a study file, and its reader, which reports all errors of a file at once."""

import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from harness.errors import Problem, UserError, choices
from harness.results.records import (
    DataSettings,
    EquivalenceMargin,
    LadderSettings,
    ModelSettings,
    ProbeSettings,
    Seed,
    StrictModel,
    TrainSettings,
    TuningMethod,
)
from harness.results.records.settings import Steps, TimeLimit

MAX_NAME = 80  # characters of a study's name, which is the name of a folder
MAX_RUNS = 10_000  # seeds, or elements of an axis
MAX_SHOWN = 100  # characters of a value in a message
MAX_DEPTH = 20  # of tables and lists within each other
# Python converts no integers of more digits; TOML's have at most 19.
LONG_INTEGER = re.compile(r"\d[\d_]{1000,}")

RawTable = dict[str, Any]  # of TOML; validated when the variants are known
Element = str | RawTable  # of an axis: a variant's name, or a table with `variant` and its options
Rule = RawTable


class StudySection(StrictModel):
    """The study's name, its seeds, its baseline, and the folders of the user's variants.

    `match_size` gives all entries the baseline's number of parameters, or of FLOPs per token, by
    the width of their MLPs. Differences within `equivalence_margin` count as equivalent.
    `cross_seeds` adds runs that combine the initialization of each seed with the data order of
    every other seed, to separate the two sources of variance. `allow` permits violations of the
    variants' contract, which the report then shows: `non-causal` outputs depend on later tokens.
    `compare` names the axes that the study asks about; the others that vary are its context: runs
    are compared within each of their combinations. Without it, every axis is asked.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=MAX_NAME)]
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=MAX_RUNS)]
    baseline: dict[str, str] = {}
    variant_paths: list[str] = []
    match_size: Literal["parameters", "flops"] | None = None
    equivalence_margin: EquivalenceMargin = EquivalenceMargin()
    cross_seeds: bool = False
    allow: list[Literal["non-causal"]] = []
    compare: Annotated[list[str], Field(min_length=1)] | None = None


class LaunchSettings(StrictModel):
    """How a run is started and which checkpoints it keeps; not part of a run's id.

    Checkpoints are written every `checkpoint_every` steps (None: at each evaluation). Of the newest
    and the best by validation loss, `keep_checkpoints` keeps none, the weights, or the weights and
    the newest one's full state. An interrupted run resumes from its newest checkpoint, unless none
    are kept. A run without activity for `stall_timeout_s` (no step, evaluation, checkpoint or
    printed line; None: no limit) is ended.
    """

    timeout_s: TimeLimit | None = None
    stall_timeout_s: TimeLimit | None = 600.0
    checkpoint_every: Steps | None = None
    keep_checkpoints: Literal["none", "weights", "full"] = "weights"


class InitSettings(StrictModel):
    """The source of every entry's initial parameters: exactly one of the two.

    `from_checkpoint` is a folder of weights. `from_run` is another run of the same study and seed:
    the baseline with the given axes, and under `train` the training settings that differ.
    """

    from_checkpoint: str | None = None
    from_run: RawTable | None = None

    @model_validator(mode="after")
    def _check_one_source(self) -> Self:
        if (self.from_checkpoint is None) == (self.from_run is None):
            raise ValueError("must have either `from_checkpoint` or `from_run`")
        return self


class TuneSection(StrictModel):
    """The settings that every entry tries before its final runs, and how many.

    `axes` maps dotted keys to a list of values, or to a range: a table of `low`, `high` and `log`.
    `budget` is the number of settings of each entry, by default those of the grid. `rungs` are the
    numbers of steps of successive halving. The `seeds` are not those of the study.
    """

    axes: Annotated[dict[str, list[Any] | RawTable], Field(min_length=1, max_length=20)]
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=MAX_RUNS)]
    budget: Annotated[int, Field(ge=2, lt=2**31)] | None = None
    method: TuningMethod | None = None
    rungs: Annotated[list[Steps], Field(max_length=20)] = []


class StudyFile(StrictModel):
    """The content of a study file; `matrix` expands it to entries and runs."""

    study: StudySection
    model: ModelSettings
    data: DataSettings
    train: TrainSettings
    init: InitSettings | None = None
    launch: LaunchSettings = LaunchSettings()
    probes: ProbeSettings = ProbeSettings()
    tune: TuneSection | None = None
    ladder: LadderSettings | None = None
    axes: dict[str, Annotated[list[Element], Field(min_length=1, max_length=MAX_RUNS)]] = {}
    exclude: list[Rule] = []
    include: list[Rule] = []


def read(
    path: Path, settings: Iterable[str] = (), seeds: Sequence[int] | None = None
) -> tuple[StudyFile, list[Problem]]:
    """Read a study file without its unknown keys, and return these as problems.

    `settings` are `section.key=value` overrides, `seeds` replace the study's.

    Raises:
        UserError: the file is missing, is not TOML, or violates the schema; it names every problem
            with file, key path and remedy.
    """
    raw = _read_toml(path)
    for setting in settings:
        _override(raw, setting)
    if seeds is not None and isinstance(raw.setdefault("study", {}), dict):
        raw["study"]["seeds"] = list(seeds)
    problems = [Problem(f"{path}: {key}", message) for key, message in _out_of_range(raw)]
    if problems:
        raise UserError(problems)
    try:
        return StudyFile.model_validate(raw), []
    except ValidationError as error:
        problems = _problems(path, error)
        unknown = [detail["loc"] for detail in error.errors() if _is_unknown(detail)]
        if len(unknown) < error.error_count():
            raise UserError(problems) from error
    for keys in unknown:
        _remove(raw, keys)
    try:
        return StudyFile.model_validate(raw), problems
    except ValidationError as error:
        raise UserError([*problems, *_problems(path, error)]) from error


def _problems(path: Path, error: ValidationError) -> list[Problem]:
    return [
        Problem(f"{path}: {key}", message) for key, message in describe_errors(error, StudyFile)
    ]


def _is_unknown(detail: ErrorDetails) -> bool:
    return detail["type"] == "extra_forbidden"


def _remove(raw: RawTable, keys: Sequence[int | str]) -> None:
    table: Any = raw
    for key in keys[:-1]:
        table = table[key]
    del table[keys[-1]]


def _read_toml(path: Path) -> RawTable:
    try:
        return parse_toml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such study file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not TOML: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path}: not a study: its tables are nested too deeply") from error


def parse_toml(text: str) -> RawTable:
    """Parse TOML; an integer that Python does not convert becomes one that TOML does not allow."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:
        return tomllib.loads(LONG_INTEGER.sub(str(10**30), text))


def _out_of_range(value: object, keys: tuple[int | str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield the key paths of integers that TOML does not allow, and of values nested too deeply."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield key_path(keys), "an integer must be at least -2^63 and less than 2^63"
    elif isinstance(value, dict | list) and len(keys) > MAX_DEPTH:
        yield key_path(keys[:3]), f"nested too deeply; allowed: {MAX_DEPTH} tables and lists"
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _out_of_range(item, (*keys, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _out_of_range(item, (*keys, i))


def _override(raw: RawTable, setting: str) -> None:
    """Set one key of the study to the value that `--set` gives it."""
    path, equals, text = setting.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not equals or len(keys) < 2 or not all(keys):
        raise UserError(f"--set {setting}: must be SECTION.KEY=VALUE, e.g. train.steps=100")
    try:
        value = parse_toml(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = text  # a string without quotes, which the shell would remove
    table = raw
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise UserError(f"--set {setting}: {key} is not a table")
    table[keys[-1]] = value


def describe_errors(error: ValidationError, model: type[BaseModel]) -> list[tuple[str, str]]:
    """Return each invalid key path, with its problem and the allowed values.

    For a value of several allowed types, pydantic reports one error per type; they are merged.
    """
    separator = ": input should be "
    messages: dict[str, str] = {}
    for detail in error.errors():
        key, message = _describe(detail, model)
        if separator in messages.get(key, "") and separator in message:
            message = f"{messages[key]}, or {message.partition(separator)[2]}"
        messages[key] = message
    return [(key, message) for key, message in messages.items() if not _is_refined(key, messages)]


def _is_refined(key: str, keys: Iterable[str]) -> bool:
    """Return whether a problem is within the value at `key`: then `key` itself is valid."""
    return any(other.startswith((f"{key}[", f"{key}.")) for other in keys)


def _describe(detail: ErrorDetails, model: type[BaseModel]) -> tuple[str, str]:
    keys = [key for key in detail["loc"] if not _UNION_TAG.fullmatch(str(key))]
    location = key_path(keys)
    if detail["type"] == "extra_forbidden":
        return location, f"unknown key; {choices(str(keys[-1]), _fields(model, keys[:-1]))}"
    if detail["type"] == "missing":
        return location, "missing, and has no default"
    message = detail["msg"].removeprefix("Value error, ")
    return location, f"{shown(detail['input'])}: {message[:1].lower()}{message[1:]}"


# Names of types that pydantic inserts into the key path of a value that may have several types.
_UNION_TAG = re.compile(r"(constrained-)?(str|int|float|bool)|(list|dict|literal)\[.*\]")


def shown(value: object) -> str:
    """Return a value as an error message shows it: shortened, if it is long."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def _fields(model: type[BaseModel], keys: Iterable[int | str]) -> list[str]:
    """Return the keys that the section at `keys` may have."""
    for key in keys:
        if isinstance(key, str):
            model = next(_models(model.model_fields[key].annotation))
    return list(model.model_fields)


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """Yield the sections in a type: itself, or what it is optional, a list or a choice of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def key_path(keys: Iterable[int | str]) -> str:
    """Format a key path as in TOML: axes.attention[2].window."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}"
    return text.lstrip(".")
