"""The statements of a study file: its entries and baseline, and which of them a run belongs to."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.errors import Problem, UserError
from harness.results.files import absolute
from harness.results.records import LookPlan, RunSpec, VariantChoice
from harness.results.records.tuning import TUNED, TUNING, UNTUNED
from harness.study import matrix, rules, study_file
from harness.study.axes import StatedAxes, VariantSelection, entry_id
from harness.study.axis_names import AXES
from harness.study.expressions import ExpressionError
from harness.study.ladder import check_ladder
from harness.study.looks import plan_looks
from harness.study.names import SOURCE_PREFIX
from harness.study.settings import SECTIONS, as_setting, find_expression
from harness.study.study_file import MATCHED_AXIS, MATCHED_OPTION, StudyFile

# Settings that a run resolves for its machine or records in another form.
NOT_COMPARED = ("train.device", "data.corpus", "data.fallback_corpus")


@dataclass(frozen=True)
class SettingDifference:
    """A setting that the study file states otherwise than the runs have it, by dotted key."""

    key: str
    stated: object
    used: object


@dataclass(frozen=True)
class StatedStudy:
    """The content of a study file, with its entries.

    `looks` is the plan of looks that the file states, None if it states none.
    """

    path: Path
    file: StudyFile
    axes: StatedAxes
    baseline: VariantSelection
    entries: list[VariantSelection]
    looks: LookPlan | None

    @property
    def baseline_labels(self) -> dict[str, str]:
        """The label of the baseline on each axis."""
        labels = {axis: choice.label for axis, choice in self.baseline.items()}
        return labels | ({TUNING: UNTUNED} if self.file.tune is not None else {})

    @cached_property
    def _entry_labels(self) -> set[tuple[str, ...]]:
        return {tuple(choice.label for choice in entry.values()) for entry in self.entries}

    def place(self, spec: RunSpec) -> RunSpec | None:
        """Return the spec with the labels of the study file; None if no entry matches it.

        The seed does not matter: runs of seeds that the file no longer lists are results of the
        same entries, and `run --seeds` adds others too.
        """
        choices: VariantSelection = {}
        for axis in self.axes.names:
            stated = self._find(axis, spec)
            if stated is None:
                return None
            choices[axis] = _relabelled(axis, stated, spec)
        if tuple(choice.label for choice in choices.values()) not in self._entry_labels:
            return None
        removed = [axis for axis in spec.axes if axis not in choices and axis != TUNING]
        if any(not self._has_own_values(spec.axes[axis], spec) for axis in removed):
            return None
        entry = entry_id(choices, self.file)
        trial = spec.tuning
        if trial is not None:
            trial = trial.model_copy(update={"entry": entry})
        tuning = spec.axes.get(TUNING)
        if tuning is not None:
            if self.file.tune is None and tuning.label == TUNED:
                return None
            if self.file.tune is not None:
                choices[TUNING] = tuning
                entry = entry_id(choices, self.file)
        prefix = SOURCE_PREFIX if _is_source(spec) else ""
        update = {
            "axes": choices,
            "entry": prefix + entry,
            "baseline": self.baseline_labels,
            "tuning": trial,
        }
        return spec.model_copy(update=update)

    def _find(self, axis: str, spec: RunSpec) -> VariantChoice | None:
        """Return the choice of an axis that a run has; of equal ones, that with its label.

        Equal choices with other labels are ambiguous: none of them is returned.
        """
        run_choice = spec.axes.get(axis)
        matching = []
        for choice in self.axes.choices[axis]:
            if axis not in AXES:
                is_equal = all(_has(spec, key, value) for key, value in choice.options.items())
            else:
                is_equal = run_choice is not None and self._is_variant(axis, choice, run_choice)
            if is_equal:
                matching.append(choice)
        for choice in matching:
            if run_choice is not None and choice.label == run_choice.label:
                return choice
        if run_choice is None and axis in AXES:  # of an older version, which had no such axis
            default = self.axes.matching(axis, AXES[axis].default)
            return default[0] if default else None
        return matching[0] if len(matching) == 1 else None

    def _is_variant(self, axis: str, stated: VariantChoice, used: VariantChoice) -> bool:
        """Return whether a run has a stated variant; options that files do not show may differ."""
        if stated.name != used.name:
            return False
        is_matched = self.file.study.match_size is not None and axis == MATCHED_AXIS
        for option, value in stated.options.items():
            if is_matched and option == MATCHED_OPTION:
                continue
            if option in used.options and used.options[option] != value:
                return False
        return True

    def _has_own_values(self, level: VariantChoice, spec: RunSpec) -> bool:
        """Return whether the settings of a level of a removed axis are those of the sections."""
        if not level.is_setting:
            return False  # an axis of variants that this version does not have
        return all(_has(spec, key, self._stated(key)) for key in level.options)

    def _stated(self, key: str) -> object:
        """Return the value of a section's key, its default if the file does not state it."""
        section, _, name = key.partition(".")
        return self.file.sections[section].get(name, SECTIONS[section].model_fields[name].default)

    def differences(self, spec: RunSpec) -> list[SettingDifference]:
        """Return the settings of the sections that a run has otherwise.

        Settings that axes vary, or that the tuning chooses, are not compared.
        """
        skipped = {*self.file.varied, *NOT_COMPARED}
        if self.file.tune is not None:
            skipped.update(self.file.tune.axes)
        found = []
        for section, model in SECTIONS.items():
            for name in model.model_fields:
                key = f"{section}.{name}"
                if key in skipped or not hasattr(getattr(spec, section), name):
                    continue
                stated = self._stated(key)
                if not _has(spec, key, stated):
                    used = _value(spec, key)
                    found.append(SettingDifference(key, stated, used))
        return found + list(self._other_corpus(spec))

    def _other_corpus(self, spec: RunSpec) -> Iterator[SettingDifference]:
        """Yield that the runs read another text; a file may be named by another path."""
        stated = self._stated("data.corpus")
        fallback = self._stated("data.fallback_corpus")
        if "data.corpus" in self.file.varied or not isinstance(stated, str):
            return
        names = {Path(str(name)).name for name in (stated, fallback) if name is not None}
        is_named = spec.launch.mixture or Path(spec.data.corpus).name in names
        if not is_named:
            yield SettingDifference("data.corpus", stated, spec.data.corpus)


def _relabelled(axis: str, stated: VariantChoice, spec: RunSpec) -> VariantChoice:
    """Return the run's choice on an axis under the name that the study file gives it."""
    used = spec.axes.get(axis)
    if used is not None and used.label == stated.label:
        return used if used.title else used.model_copy(update={"title": stated.title})
    name = {"label": stated.label, "title": stated.title}
    if used is not None:
        return used.model_copy(update=name)
    options = {key: _value(spec, key) for key in stated.options} if axis not in AXES else None
    return stated if options is None else stated.model_copy(update={"options": options})


def _is_source(spec: RunSpec) -> bool:
    first = next(iter(spec.axes.values())).label
    return spec.entry.startswith(SOURCE_PREFIX) and not f"{first}-".startswith(SOURCE_PREFIX)


def _value(spec: RunSpec, key: str) -> object:
    """Return the value of a setting in a run: that of its level, else that of its section."""
    for choice in spec.axes.values():
        if key in choice.options:
            return choice.options[key]
    section, _, name = key.partition(".")
    return getattr(spec, section).model_dump().get(name)


def _has(spec: RunSpec, key: str, stated: object) -> bool:
    """Return whether a run has the stated value of a setting, which may be an expression."""
    used = _value(spec, key)
    try:
        expression = find_expression(key, stated)
        if expression is None:
            return used == stated
        return used == as_setting(key, expression.evaluate(_names(spec)))
    except (ExpressionError, KeyError):
        return False


def _names(spec: RunSpec) -> Mapping[str, float]:
    """Return the values of the names in expressions, as the run has them."""
    return {
        "parameters": spec.expected.parameters,
        "n_embd": spec.model.n_embd,
        "n_layer": spec.model.n_layer,
        "tokens_per_step": spec.train.tokens_per_step,
        "seq_len": spec.model.seq_len,
    }


def read(path: Path) -> StatedStudy:
    """Read a study file without importing variants: their options are not validated.

    Raises:
        UserError: the study is invalid; it names every problem with file, key path and remedy.
    """
    file, problems = study_file.read(path)
    location = str(path)
    axes = StatedAxes(location, [absolute(path.parent / name) for name in file.study.variant_paths])
    baseline, entries, _ = matrix.expand(file, axes)
    looks, look_problems = plan_looks(file, location, None, has_seeds=False)
    problems += axes.problems
    problems += look_problems
    problems += rules.check_compare(location, file.study.compare, entries, axes.names)
    problems += check_ladder(location, file.ladder, file.study.compare, entries)
    if problems:
        raise UserError(dict.fromkeys(problems))
    if not entries:
        raise UserError([Problem(location, "all entries are excluded")])
    return StatedStudy(path, file, axes, baseline, entries, looks)
