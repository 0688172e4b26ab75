"""Read `[tune]`: the settings that every entry tries, on seeds that no comparison uses."""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from harness.errors import Problem, choices
from harness.results.records import (
    ModelSettings,
    Setting,
    SettingValues,
    TrainSettings,
    TunedRange,
    TuneSettings,
    TuningMethod,
)
from harness.results.records.tuning import as_setting
from harness.study.names import default_label
from harness.study.schema_errors import describe_errors, shown
from harness.study.study_file import TuneSection

# Of [model], all others change the size of the model and so the cost of its training.
MODEL_KEYS = ("dropout", "init_std")
# Every entry must train on the same tokens in the same way, and be evaluated on the same tokens.
UNTUNABLE_TRAIN_KEYS = (
    "steps",
    "tokens_per_step",
    "batch_ramp",
    "micro_batch_size",
    "precision",
    "compile",
    "eval_every",
    "eval_tokens",
    "deterministic",
    "device",
)
AVERAGE = "train.ema_decay"
MAX_SETTINGS = 1000  # of each entry
SIGNIFICANT_DIGITS = 3  # of values that are drawn from a range


@dataclass(frozen=True)
class Tuning:
    """The tuning of a study, and the settings that each of its entries tries."""

    settings: TuneSettings
    points: Sequence[SettingValues]

    @property
    def keys(self) -> list[str]:
        """The tuned keys."""
        return list(self.settings.axes)


def tunable_keys() -> list[str]:
    """Return the dotted keys that `[tune] axes` may name."""
    keys = [f"model.{key}" for key in MODEL_KEYS if key in ModelSettings.model_fields]
    for key in TrainSettings.model_fields:
        if key not in UNTUNABLE_TRAIN_KEYS:
            keys.append(f"train.{key}")
    keys.remove(AVERAGE)
    return keys


def setting_label(settings: Mapping[str, Setting]) -> str:
    """Return a readable label of some settings: lr0.003, or lr0.003_weight_decay0.1."""
    parts = [default_label(key.rpartition(".")[2], {"": value}) for key, value in settings.items()]
    return "_".join(parts)


def read(
    section: TuneSection, location: str, seeds: Collection[int], varied: Collection[str]
) -> tuple[Tuning | None, list[Problem]]:
    """Return the tuning of a study, None if it is invalid, and all of its problems.

    `seeds` are those of the study, `varied` the dotted keys that its axes vary.
    """
    reader = _Reader(section, f"{location}: tune", varied)
    problems = [*reader.check_seeds(seeds), *reader.read_axes(), *reader.check_method()]
    if problems:
        return None, problems
    points, problems = reader.points()
    if problems:
        return None, problems
    settings = TuneSettings(
        axes=reader.axes,
        method=reader.method,
        seeds=section.seeds,
        budget=len(points),
        rungs=section.rungs,
    )
    return Tuning(settings, points), []


class _Reader:
    """Reads `[tune]` step by step; each step yields its problems."""

    def __init__(self, section: TuneSection, location: str, varied: Collection[str]) -> None:
        self._section = section
        self._location = location
        self._varied = varied
        self.axes: dict[str, list[Setting] | TunedRange] = {}

    def _problem(self, key: str, message: str) -> Problem:
        return Problem(f"{self._location}.{key}", message)

    @property
    def method(self) -> TuningMethod:
        """The method: as stated, else that which fits the axes."""
        if self._section.method is not None:
            return self._section.method
        if self._section.rungs:
            return "halving"
        return "random" if self._has_range() else "grid"

    def _has_range(self) -> bool:
        return any(isinstance(values, TunedRange) for values in self.axes.values())

    def check_seeds(self, seeds: Collection[int]) -> Iterator[Problem]:
        """Tuning seeds are distinct, and none is a seed of the comparison."""
        own = self._section.seeds
        shared = sorted(set(own) & set(seeds))
        if shared:
            yield self._problem(
                "seeds",
                f"{', '.join(map(str, shared))}: also in study.seeds; the chosen settings would "
                "be compared on the seeds that chose them; use other seeds, e.g. "
                f"{max(*own, *seeds) + 1}",
            )
        if len(set(own)) < len(own):
            yield self._problem("seeds", f"{own}: a seed occurs twice")

    def read_axes(self) -> Iterator[Problem]:
        """Each axis is a tunable key with values or a range that its section allows."""
        for key, given in self._section.axes.items():
            place = f'axes."{key}"'
            refusal = self._why_refused(key)
            if refusal is not None:
                yield self._problem(place, refusal)
            elif isinstance(given, dict):
                yield from self._read_range(key, given, place)
            else:
                yield from self._read_values(key, given, place)

    def _why_refused(self, key: str) -> str | None:
        allowed = tunable_keys()
        section, _, name = key.partition(".")
        if key in self._varied:
            return "an axis of the study varies this key; tune it or vary it, not both"
        if key == AVERAGE:
            return "does not change the loss by which settings are chosen, that of the raw weights"
        if key in allowed:
            return None
        if section == "model" and name in ModelSettings.model_fields:
            reason = "changes the cost of the model, which is not part of its tuning"
            return f"{reason}; {choices(key, allowed)}"
        if section == "train" and name in TrainSettings.model_fields:
            reason = "must be the same in all trials, so that their losses can be compared"
            return f"{reason}; {choices(key, allowed)}"
        return f"no such setting; {choices(key, allowed)}"

    def _read_values(self, key: str, given: Sequence[object], place: str) -> Iterator[Problem]:
        values: list[Setting] = []
        for i, value in enumerate(given):
            try:
                values.append(_validated(key, value))
            except ValueError as error:
                yield self._problem(f"{place}[{i}]", str(error))
        if len(given) < 2:
            yield self._problem(
                place, f"{shown(given)}: needs at least two values; a single one is a setting"
            )
        for i, value in enumerate(values):
            if value in values[:i]:
                yield self._problem(place, f"{value}: occurs twice")
        self.axes[key] = values

    def _read_range(self, key: str, given: Mapping[str, object], place: str) -> Iterator[Problem]:
        try:
            tuned = TunedRange.model_validate(given)
        except ValidationError as error:
            for name, message in describe_errors(error, TunedRange):
                yield self._problem(f"{place}.{name}", message)
            return
        ends = {}
        for name in ("low", "high"):
            value = getattr(tuned, name)
            try:
                ends[name] = _validated(key, int(value) if _is_whole(key) else value)
            except ValueError as error:
                yield self._problem(f"{place}.{name}", str(error))
        if any(isinstance(end, bool | str) for end in ends.values()):
            yield self._problem(place, "a range needs a numeric setting; list the values")
        if tuned.low >= tuned.high:
            yield self._problem(place, f"low = {tuned.low:g} is not below high = {tuned.high:g}")
        elif tuned.log and tuned.low <= 0:
            yield self._problem(
                f"{place}.low", f"{tuned.low:g}: the logarithm needs a low above 0; or omit `log`"
            )
        self.axes[key] = tuned

    def check_method(self) -> Iterator[Problem]:
        """The method fits the axes, and the budget is the same for every entry."""
        section = self._section
        if self.method == "grid" and self._has_range():
            yield self._problem(
                "method", "'grid': a grid needs lists of values; with ranges use 'random'"
            )
        if self.method == "halving":
            yield from self._check_rungs()
        elif section.rungs:
            yield self._problem("rungs", f"only for method = 'halving', not {self.method!r}")
        is_drawn = self.method == "random" or self._has_range()
        if is_drawn and section.budget is None:
            yield self._problem("budget", "missing: the number of settings that each entry tries")

    def _check_rungs(self) -> Iterator[Problem]:
        rungs = self._section.rungs
        if len(rungs) < 2 or sorted(set(rungs)) != rungs:
            yield self._problem(
                "rungs", f"{rungs}: must be at least two rising numbers of steps, e.g. [100, 200]"
            )

    def points(self) -> tuple[list[SettingValues], list[Problem]]:
        """Return the settings that each entry tries."""
        budget = self._section.budget
        is_grid = self.method != "random" and not self._has_range()
        n_settings = budget or 0
        if is_grid:
            lists = [values for values in self.axes.values() if isinstance(values, list)]
            n_settings = math.prod(map(len, lists))
        problems = [*self._check_number(n_settings, is_grid)]
        if problems:
            return [], problems
        if is_grid:
            combinations = itertools.product(*lists)
            return [dict(zip(self.axes, values, strict=True)) for values in combinations], []
        points = self._draw(n_settings)
        distinct = {setting_label(point) for point in points}
        if len(distinct) < len(points):
            problem = self._problem(
                "budget",
                f"{budget}: the axes give {len(distinct)} different settings only; use a smaller "
                "budget or wider ranges",
            )
            return [], [problem]
        return points, []

    def _check_number(self, n_settings: int, is_grid: bool) -> Iterator[Problem]:
        budget = self._section.budget
        if n_settings > MAX_SETTINGS:
            yield self._problem(
                "budget" if not is_grid else "axes",
                f"{n_settings} settings for each entry; allowed: at most {MAX_SETTINGS}",
            )
        if is_grid and budget not in (None, n_settings):
            yield self._problem(
                "budget",
                f"{budget}: the grid has {n_settings} settings, and every entry must try all of "
                "them; omit the budget, or use method = 'random'",
            )
        factor = 2 ** (len(self._section.rungs) - 1)
        if self.method == "halving" and n_settings % factor:
            below = n_settings // factor * factor
            nearest = [n for n in (below, below + factor) if n > 0]
            yield self._problem(
                "budget",
                f"{n_settings} settings cannot be halved {len(self._section.rungs) - 1} times; "
                f"the nearest that can: {', '.join(map(str, nearest))}",
            )

    def _draw(self, n_settings: int) -> list[SettingValues]:
        """Return quasi-random settings: a scrambled Halton sequence (Owen 2017).

        The first settings of a larger budget are those of a smaller one.
        """
        from scipy.stats import qmc  # slow to load

        sequence = qmc.Halton(len(self.axes), seed=self._section.seeds[0]).random(n_settings)
        points = []
        for row in sequence.tolist():
            point = {}
            for (key, values), position in zip(self.axes.items(), row, strict=True):
                point[key] = _value_at(key, values, position)
            points.append(point)
        return points


def _value_at(key: str, values: list[Setting] | TunedRange, position: float) -> Setting:
    """Return the value at a position in [0, 1) of a list or of a range."""
    if isinstance(values, list):
        return values[int(position * len(values))]
    value: float
    if values.log:
        value = values.low * (values.high / values.low) ** position
    else:
        value = values.low + (values.high - values.low) * position
    if _is_whole(key):
        return round(value)
    rounded = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return min(max(rounded, values.low), values.high)


def _validated(key: str, value: object) -> Setting:
    """Return a value as its section stores it.

    Raises:
        ValueError: the section does not allow it.
    """
    try:
        return as_setting(key, value)
    except ValueError as error:
        raise ValueError(f"{shown(value)}: {error}") from error


def _is_whole(key: str) -> bool:
    """Return whether the values of a key are integers."""
    try:
        return isinstance(as_setting(key, 1), int)
    except ValueError:
        return False
