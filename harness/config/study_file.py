"""Read a study file: TOML to typed sections, with every error of the file at once."""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from harness.errors import Problem, UserError, choices
from harness.results.records import (
    DataSettings,
    EquivalenceMargin,
    ModelSettings,
    Positive,
    ProbeSettings,
    Seed,
    StrictModel,
    TrainSettings,
)

Element = (
    str | dict[str, Any]
)  # of an axis: a variant's name, or a table with `use`, its options and a `label`
Rule = dict[str, Any]
RawTable = dict[str, Any]  # of TOML; checked when its axes are known


class StudySection(StrictModel):
    """What the study is called, which seeds it pairs, what it compares with, and where the user's own variants lie.

    `match_size` gives all entries the baseline's number of parameters, or of FLOPs per token, by the width of their MLPs.
    Within `equivalence_margin`, entries are equivalent. `cross_seeds` adds to the runs of each seed those with its
    initial values and every other seed's data order, to separate the two sources of variance.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    baseline: dict[str, str] = {}
    variant_paths: list[str] = []
    match_size: Literal["parameters", "flops"] | None = None
    equivalence_margin: EquivalenceMargin = EquivalenceMargin()
    cross_seeds: bool = False


class LaunchSettings(StrictModel):
    """How a run is started and what is kept of it; says nothing of what it computes and is no part of its hash.

    Checkpoints are written every `checkpoint_every` steps (None: at each evaluation); of the newest and the best by
    validation loss, `keep_checkpoints` keeps none, the weights, or the newest one's whole state. A run that keeps anything goes
    on from its newest checkpoint when it was interrupted. One that shows no sign of life for `stall_timeout_s` (no
    step, evaluation, checkpoint or printed line; None: for as long as you like) is ended.
    """

    timeout_s: Annotated[float, Field(gt=0)] | None = None
    stall_timeout_s: Annotated[float, Field(gt=0)] | None = 600.0
    checkpoint_every: Positive | None = None
    keep_checkpoints: Literal["none", "weights", "full"] = "weights"


class InitSettings(StrictModel):
    """Where the initial parameters of every entry come from: exactly one of the two.

    `from_checkpoint` is a folder of weights. `from_run` is another run of the same study and seed: the baseline with
    the given axes, and under `train` the training settings that differ.
    """

    from_checkpoint: str | None = None
    from_run: RawTable | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.from_checkpoint is None) == (self.from_run is None):
            raise ValueError("must have either `from_checkpoint` or `from_run`")
        return self


class StudyFile(StrictModel):
    """A study file as it stands; `matrix` makes entries of it."""

    study: StudySection
    model: ModelSettings
    data: DataSettings
    train: TrainSettings
    init: InitSettings | None = None
    launch: LaunchSettings = LaunchSettings()
    probes: ProbeSettings = ProbeSettings()
    axes: dict[str, Annotated[list[Element], Field(min_length=1)]] = {}
    exclude: list[Rule] = []
    include: list[Rule] = []


def read(path: Path, settings: Iterable[str] = (), seeds: list[int] | None = None) -> StudyFile:
    """Read a study; `settings` are `section.key=value` from the command line, and `seeds` replace the study's.

    Raises:
        UserError: the file is missing, is no TOML, or breaks the form; every problem with file, key path and remedy.
    """
    raw = _toml(path)
    for setting in settings:
        _set(raw, setting)
    if seeds is not None and isinstance(raw.setdefault("study", {}), dict):
        raw["study"]["seeds"] = seeds
    try:
        return StudyFile.model_validate(raw)
    except ValidationError as error:
        raise UserError(
            [Problem(f"{path}: {key}", told) for key, told in describe(error, StudyFile)]
        ) from error


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such study file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not TOML: {error}") from error


def _set(raw: dict[str, Any], setting: str) -> None:
    path, equals, text = setting.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not equals or len(keys) < 2 or not all(keys):
        raise UserError(f"--set {setting}: must be SECTION.KEY=VALUE, e.g. train.steps=100")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word, as shells make it easy to write
    table = raw
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise UserError(f"--set {setting}: {key} is no table")
    table[keys[-1]] = value


def describe(error: ValidationError, model: type[BaseModel]) -> list[tuple[str, str]]:
    """Return the key path of all that pydantic complains about, and what is wrong and allowed there.

    Where a value may be of several types, it complains once for each; that is put together.
    """
    told: dict[str, str] = {}
    for key, message in (_describe(detail, model) for detail in error.errors()):
        start = ": input should be "
        told[key] = (
            f"{told[key]}, or {message.partition(start)[2]}"
            if start in told.get(key, "")
            else message
        )
    return list(told.items())


def _describe(detail: ErrorDetails, model: type[BaseModel]) -> tuple[str, str]:
    keys = [key for key in detail["loc"] if key not in _UNION_TAGS]
    place = key_path(keys)
    if detail["type"] == "extra_forbidden":
        return place, f"unknown key; {choices(str(keys[-1]), _fields(model, keys[:-1]))}"
    if detail["type"] == "missing":
        return place, "missing, and has no default"
    message = detail["msg"].removeprefix("Value error, ")
    return place, f"{detail['input']!r}: {message[:1].lower()}{message[1:]}"


# pydantic's, in its key paths
_UNION_TAGS = ("str", "dict[str,any]", "int", "list[int]", "constrained-int", "literal['all']")


def _fields(model: type[BaseModel], keys: Iterable[Any]) -> list[str]:
    """Return the keys that the section at `keys` may hold."""
    for key in keys:
        annotation = model.model_fields[key].annotation
        types = get_args(annotation) or (annotation,)  # a section, or one that may be left out
        model = next(one for one in types if isinstance(one, type) and issubclass(one, BaseModel))
    return [field.alias or name for name, field in model.model_fields.items()]


def key_path(keys: Iterable[Any]) -> str:
    """Write a key path as TOML's users know it: axes.attention[2].window."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}"
    return text.lstrip(".")
