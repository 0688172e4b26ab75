"""The schema of a study file, and its reader, which reports all errors of a file at once."""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails

from harness.errors import Problem, UserError
from harness.results.files import check_regular
from harness.results.records import (
    AskedQuantity,
    EquivalenceMargin,
    LadderSettings,
    LaunchSettings,
    Positive,
    ProbeSettings,
    Seed,
    StrictModel,
    Superiority,
    TuningMethod,
)
from harness.results.records.base import MAX_STUDY_NAME, STUDY_NAME
from harness.results.records.settings import Steps
from harness.study.axis_names import AXES
from harness.study.schema_errors import describe_errors, key_path, quoted
from harness.study.settings import SECTIONS, RawTable, find_expression, section_problems

MAX_NAME = MAX_STUDY_NAME
MAX_RUNS = 10_000  # seeds, or elements of an axis
MAX_LOOKS = 100
MAX_PATHS = 100  # folders of variants
# The axis and the option by which `match_size` sets the size of an entry.
MATCHED_AXIS = "mlp"
MATCHED_OPTION = "width"
MAX_DEPTH = 20  # of tables and lists within each other
# Python converts no integers of more digits; TOML's have at most 19.
LONG_INTEGER = re.compile(r"\d[\d_]{1000,}")

Scalar = str | bool | int | float
# Of an axis: a variant's name, or a table with `variant` and its options; or the value of a
# setting, or a table of settings. Tables are validated when the variants are known.
Element = Scalar | RawTable
Rule = RawTable


class StudySection(StrictModel):
    """The study's name, its seeds, its baseline, and the folders of the user's variants.

    `match_size` gives all entries the baseline's number of parameters, or of FLOPs per token, by
    the width of their MLPs. Differences within `equivalence_margin` count as equivalent;
    `superiority` asks which entries are better than the baseline by more than a threshold.
    `cross_seeds` adds runs that combine the initialization of each seed with the data order of
    every other seed, to separate the two sources of variance. `allow` permits violations of the
    variants' contract, which the report then shows: `non-causal` outputs depend on later tokens.
    `compare` names the axes that the study asks about; the others that vary are its context: runs
    are compared within each of their combinations. Without it, every axis is asked.
    `looks` are the numbers of seeds after which verdicts are computed: entries whose `questions`
    have a verdict get no more seeds.
    """

    name: Annotated[str, Field(pattern=STUDY_NAME, max_length=MAX_NAME)]
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=MAX_RUNS)]
    baseline: dict[str, Scalar] = {}
    variant_paths: Annotated[list[str], Field(max_length=MAX_PATHS)] = []
    match_size: Literal["parameters", "flops"] | None = None
    equivalence_margin: EquivalenceMargin = EquivalenceMargin()
    superiority: Superiority = Superiority()
    cross_seeds: bool = False
    allow: list[Literal["non-causal"]] = []
    compare: Annotated[list[str], Field(min_length=1)] | None = None
    looks: Annotated[list[Positive], Field(min_length=1, max_length=MAX_LOOKS)] | None = None
    questions: Annotated[list[AskedQuantity], Field(min_length=1)] | None = None

    @field_validator("superiority")
    @classmethod
    def _check_margins(cls, superiority: Superiority, section: ValidationInfo) -> Superiority:
        """Refuse a threshold within the margin: one result could be equivalent and superior."""
        margins = section.data.get("equivalence_margin", EquivalenceMargin())
        for metric, threshold in superiority:
            margin = getattr(margins, metric)
            if threshold is not None and margin is not None and threshold < margin:
                raise ValueError(
                    f"{metric} must be at least its `equivalence_margin`, {margin:g}: a difference "
                    "within the margin counts as none. Raise the threshold or lower the margin"
                )
        return superiority


class LogSettings(StrictModel):
    """The experiment trackers that get the metrics of runs while they train.

    They are not part of a run's id.
    """

    to: list[Literal["tensorboard", "wandb", "mlflow"]] = []

    @field_validator("to")
    @classmethod
    def _check_distinct(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError("names a tracker twice")
        return names


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
    """The content of a study file; `matrix` expands it to entries and runs.

    `settings` resolves [model], [data] and [train] for each entry.
    """

    study: StudySection
    model: RawTable
    data: RawTable
    train: RawTable
    init: InitSettings | None = None
    launch: LaunchSettings = LaunchSettings()
    log: LogSettings = LogSettings()
    probes: ProbeSettings = ProbeSettings()
    tune: TuneSection | None = None
    ladder: LadderSettings | None = None
    axes: dict[str, Annotated[list[Element], Field(min_length=1, max_length=MAX_RUNS)]] = {}
    exclude: list[Rule] = []
    include: list[Rule] = []

    @property
    def sections(self) -> dict[str, RawTable]:
        """The sections whose settings axes may vary."""
        return {"model": self.model, "data": self.data, "train": self.train}

    @property
    def varied(self) -> dict[str, str]:
        """The axis that varies each setting, by dotted key."""
        return _varied_settings(self.axes)

    @property
    def expressions(self) -> dict[str, str]:
        """The expressions of the sections, by dotted key."""
        texts = {}
        for section, table in self.sections.items():
            for name, value in table.items():
                expression = find_expression(f"{section}.{name}", value)
                if expression is not None:
                    texts[f"{section}.{name}"] = expression.text
        return texts


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
    twice = _join_setting_keys(raw)
    overridden = [_override(raw, setting) for setting in settings]
    if seeds is not None and isinstance(raw.setdefault("study", {}), dict):
        raw["study"]["seeds"] = list(seeds)
    problems = [Problem(f"{path}: {key}", message) for key, message in _out_of_range(raw)]
    if problems:
        raise UserError(problems)
    problems = [
        Problem(f"{path}: {key}", "stated twice, as a dotted key and in a table; remove one")
        for key in (*twice, *_join_setting_keys(raw))
    ]
    axes = raw.get("axes")
    varied = _varied_settings(axes if isinstance(axes, dict) else {})
    problems += _fixed_settings(str(path), overridden, varied)
    unknown, invalid = _section_problems(path, raw, set(varied))
    problems += unknown
    try:
        file = StudyFile.model_validate(raw)
    except ValidationError as error:
        problems += _problems(path, error)
        keys = [detail["loc"] for detail in error.errors() if _is_unknown(detail)]
        if len(keys) < error.error_count() or invalid:
            raise UserError([*problems, *invalid]) from error
        for unknown_key in keys:
            _remove(raw, unknown_key)
        try:
            file = StudyFile.model_validate(raw)
        except ValidationError as other:
            raise UserError([*problems, *_problems(path, other)]) from other
    if invalid:
        raise UserError([*problems, *invalid])
    return file, problems


def _problems(path: Path, error: ValidationError) -> list[Problem]:
    return [
        Problem(f"{path}: {key}", message) for key, message in describe_errors(error, StudyFile)
    ]


def _section_problems(
    path: Path, raw: RawTable, varied: set[str]
) -> tuple[list[Problem], list[Problem]]:
    """Return the unknown keys of the sections, which are removed, and all other problems."""
    unknown = []
    invalid = []
    for name, schema in SECTIONS.items():
        table = raw.get(name)
        if not isinstance(table, dict):
            continue
        for key, message in section_problems(name, table, varied):
            problem = Problem(f"{path}: {name}.{key}", message)
            if key in table and key not in schema.model_fields:
                unknown.append(problem)
                del table[key]
            else:
                invalid.append(problem)
    return unknown, invalid


def _varied_settings(axes: Mapping[str, object]) -> dict[str, str]:
    """Return the axis that varies each setting, by dotted key."""
    varied: dict[str, str] = {}
    for axis, elements in axes.items():
        if "." in axis:
            varied.setdefault(axis, axis)
        for element in elements if isinstance(elements, list) else ():
            for key in element if isinstance(element, dict) else ():
                if "." in key:
                    varied.setdefault(key, axis)
    return varied


def _fixed_settings(
    location: str, overridden: Iterable[str], varied: dict[str, str]
) -> Iterator[Problem]:
    """`--set` does not fix a setting that an axis varies."""
    for key in overridden:
        if key in varied:
            axis = quoted(varied[key])
            yield Problem(
                f"{location}: axes.{axis}",
                f"varies {key}, which --set {key} fixes; select levels by --where, or replace the "
                f"axis by --set axes.{varied[key]}=[...]",
            )


def _is_unknown(detail: ErrorDetails) -> bool:
    return detail["type"] == "extra_forbidden"


def _remove(raw: RawTable, keys: Sequence[int | str]) -> None:
    table: Any = raw
    for key in keys[:-1]:
        table = table[key]
    del table[keys[-1]]


def _read_toml(path: Path) -> RawTable:
    try:
        check_regular(path)
        return parse_toml(path.read_text(encoding="utf-8-sig"))  # without a byte order mark
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
    """Yield the key paths of integers that TOML does not allow, and of values nested too deeply.

    Texts with a NUL are out of range as well: no path has one.
    """
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield key_path(keys), "an integer must be at least -2^63 and less than 2^63"
    elif isinstance(value, str) and "\0" in value:
        yield key_path(keys), "must not contain a NUL"
    elif isinstance(value, dict | list) and len(keys) > MAX_DEPTH:
        yield key_path(keys[:6]), f"nested too deeply; allowed: {MAX_DEPTH} tables and lists"
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _out_of_range(item, (*keys, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _out_of_range(item, (*keys, i))


def _join_setting_keys(raw: RawTable) -> list[str]:
    """Join dotted keys of settings that TOML reads as tables: `train.lr` without quotes.

    Return the key paths of those that are stated twice.
    """
    tables: list[tuple[str, object]] = []
    axes = raw.get("axes")
    if isinstance(axes, dict):
        tables.append(("axes", axes))
        for axis, elements in axes.items():
            if axis not in AXES and isinstance(elements, list):
                tables += [(f"axes.{axis}[{i}]", element) for i, element in enumerate(elements)]
    for name, key in (("study", "baseline"), ("tune", "axes")):
        table = raw.get(name)
        if isinstance(table, dict):
            tables.append((f"{name}.{key}", table.get(key)))
    for name in ("exclude", "include"):
        rules = raw.get(name)
        if isinstance(rules, list):
            tables += [(f"{name}[{i}]", rule) for i, rule in enumerate(rules)]
    twice = []
    for place, table in tables:
        for section in SECTIONS if isinstance(table, dict) else ():
            assert isinstance(table, dict)
            nested = table.get(section)
            if not isinstance(nested, dict):
                continue
            del table[section]
            for key, value in nested.items():
                dotted = f"{section}.{key}"
                if dotted in table:
                    twice.append(f"{place}.{quoted(dotted)}")
                table[dotted] = value
    return twice


def _override(raw: RawTable, setting: str) -> str:
    """Set one key of the study to the value that `--set` gives it; return its path."""
    path, equals, text = setting.partition("=")
    keys = [key.strip() for key in path.replace('"', "").split(".")]
    if not equals or len(keys) < 2 or not all(keys):
        raise UserError(f"--set {setting}: must be SECTION.KEY=VALUE, e.g. train.steps=100")
    try:
        value = parse_toml(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = text  # a string without quotes, which the shell would remove
    for prefix in (["axes"], ["study", "baseline"], ["tune", "axes"]):
        n = len(prefix)
        if keys[:n] == prefix and len(keys) > n + 1 and keys[n] in SECTIONS:
            keys[n : n + 2] = [".".join(keys[n : n + 2])]
    table = raw
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise UserError(f"--set {setting}: {key} is not a table")
    table[keys[-1]] = value
    return ".".join(keys)
