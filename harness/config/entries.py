"""Resolve the entries of a study: the settings of each, and what follows from its model."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from harness.config.axes import Axes, architecture_key
from harness.config.size_matching import WidthMatcher
from harness.data.tokenizers import Tokenizer
from harness.errors import Problem, UserError
from harness.model.builder import ModelBuilder
from harness.results.records import DataSettings, ModelSettings, TrainSettings
from harness.study import settings as sections
from harness.study.axes import VariantSelection
from harness.study.settings import Change, Changes, SectionT, Settings, SettingsError
from harness.study.study_file import StudyFile
from variants.base import AXES, ModelShape


@dataclass(frozen=True)
class PlannedEntry:
    """An entry with its settings.

    `choices` have the widths of `match_size` and the values of expressions, `original` the choices
    as in the axes, by which rules and conditions select.
    """

    original: VariantSelection
    choices: VariantSelection
    settings: Settings

    @cached_property
    def levels(self) -> str:
        """The levels that vary settings, as messages name them: size = M, train.lr = lr0.001."""
        levels = [f"{axis} = {c.label}" for axis, c in self.choices.items() if axis not in AXES]
        return ", ".join(levels)


class _UnknownParameters(Exception):
    """The number of parameters is needed and not known, for reasons that are reported."""


@dataclass
class EntryResolver:
    """Resolves entries; `problems` collects the invalid settings.

    `variant_paths` are the user's folders. Models are built only if `can_build`: if the axes and
    all shapes are valid.
    """

    file: StudyFile
    axes: Axes
    variant_paths: Sequence[str]
    can_build: bool = False
    problems: list[Problem] = dataclasses.field(default_factory=list)
    _models: dict[str, ModelSettings | None] = dataclasses.field(default_factory=dict)
    _data: dict[str, DataSettings | None] = dataclasses.field(default_factory=dict)
    _matchers: dict[ModelShape, WidthMatcher] = dataclasses.field(default_factory=dict)
    _parameters: dict[tuple[ModelShape, str], int] = dataclasses.field(default_factory=dict)

    def resolve(
        self,
        entry: VariantSelection,
        baseline: VariantSelection | None = None,
        more: Changes | None = None,
    ) -> PlannedEntry | None:
        """Return an entry with its settings, None if they are invalid.

        With `match_size`, the widths of the MLPs match the size of the `baseline`'s variants at the
        entry's shape, if one is given. `more` changes the settings of its levels.
        """
        changes = self.axes.changes(entry) | dict(more or {})
        model = self.model(changes)
        data = self.data(changes)
        if model is None or data is None:
            return None
        choices = dict(entry)
        try:
            if self.file.study.match_size is not None and baseline is not None:
                choices = self._match_size(entry, baseline, model, data)
            train = sections.resolve(
                TrainSettings,
                self.file.sections,
                changes,
                lambda: self._count_parameters(choices, self._shape(model, data)),
            )
        except _UnknownParameters:
            return None
        except SettingsError as error:
            self._add(error)
            return None
        except UserError as error:
            self.problems += error.problems
            return None
        settings = Settings(model, data, train, changes)
        return PlannedEntry(entry, _with_values(choices, settings), settings)

    def model(self, changes: Changes) -> ModelSettings | None:
        """Return [model] with these changes, None if it is invalid."""
        return self._section(ModelSettings, "model", changes, self._models)

    def data(self, changes: Changes) -> DataSettings | None:
        """Return [data] with these changes, None if it is invalid."""
        return self._section(DataSettings, "data", changes, self._data)

    def _section(
        self,
        section: type[SectionT],
        name: str,
        changes: Changes,
        known: dict[str, SectionT | None],
    ) -> SectionT | None:
        """Return a section with these changes, None if it is invalid; `known` keeps the results."""
        key = _key(name, changes)
        if key not in known:
            known[key] = None
            try:
                known[key] = sections.resolve(section, self.file.sections, changes)
            except SettingsError as error:
                self._add(error)
        return known[key]

    def _add(self, error: SettingsError) -> None:
        location = self.axes.location
        self.problems += [Problem(f"{location}: {key}", text) for key, text in error.problems]

    def _shape(self, model: ModelSettings, data: DataSettings) -> ModelShape:
        """Return the shape of a model.

        Raises:
            _UnknownParameters: no models can be built.
        """
        if not self.can_build:
            raise _UnknownParameters
        tokenizer = Tokenizer(data.tokenizer, f"{self.axes.location}: data.tokenizer")
        return ModelShape(**model.model_dump(), vocab_size=tokenizer.vocab_size)

    def _match_size(
        self,
        entry: VariantSelection,
        baseline: VariantSelection,
        model: ModelSettings,
        data: DataSettings,
    ) -> VariantSelection:
        measure = self.file.study.match_size
        assert measure is not None
        shape = self._shape(model, data)
        if shape not in self._matchers:
            self._matchers[shape] = WidthMatcher(
                self.axes.location, measure, baseline, shape, self.variant_paths
            )
        matcher = self._matchers[shape]
        n_problems = len(matcher.problems)
        matched = matcher.match(entry)
        self.problems += matcher.problems[n_problems:]
        return matched

    def _count_parameters(self, entry: VariantSelection, shape: ModelShape) -> int:
        """Return the number of parameters of an entry's model.

        Raises:
            UserError: the model cannot be built.
        """
        key = (shape, architecture_key(entry))
        if key not in self._parameters:
            model = ModelBuilder(shape, entry, self.variant_paths).model()
            self._parameters[key] = sum(parameter.numel() for parameter in model.parameters())
        return self._parameters[key]


def _key(section: str, changes: Mapping[str, Change]) -> str:
    """Return a key of the changes of a section."""
    return str([(key, c.value) for key, c in changes.items() if key.startswith(f"{section}.")])


def _with_values(entry: VariantSelection, settings: Settings) -> VariantSelection:
    """Return an entry whose levels have the values of their settings in place of expressions."""
    choices: VariantSelection = {}
    for axis, choice in entry.items():
        choices[axis] = choice
        if axis not in AXES:
            options = {key: settings.value(key) for key in choice.options}
            choices[axis] = choice.model_copy(update={"options": options})
    return choices
