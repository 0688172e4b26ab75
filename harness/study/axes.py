"""Read the axes of a study: the variants or settings on each, with their labels."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import Problem, UserError, choices
from harness.results.records import VariantChoice
from harness.results.titles import distinct
from harness.study import setting_axes
from harness.study.axis_names import AXES, variant_files
from harness.study.names import LABEL, LABEL_FORM, default_label, default_title
from harness.study.options import COMPUTED, REQUIRED, read_defaults, read_title
from harness.study.schema_errors import quoted
from harness.study.settings import Change, RawTable
from harness.study.study_file import Element, Rule, StudyFile

# One choice for each axis: those of AXES in their order, then those that vary settings.
VariantSelection = dict[str, VariantChoice]


@dataclasses.dataclass
class StatedAxes:
    """The choices on each axis of a study. `problems` collects all that is invalid.

    `location` is the study file and `paths` the user's folders of variants. Variants are not
    imported: their options are those that their files show, and the values are not validated.
    Defaults that the files do not show are missing from the options of a choice.
    """

    location: str
    paths: Sequence[Path]
    problems: list[Problem] = dataclasses.field(default_factory=list)
    choices: dict[str, list[VariantChoice]] = dataclasses.field(default_factory=dict)
    _invalid: set[tuple[str, str]] = dataclasses.field(default_factory=set)  # axis, name or label
    _places: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)  # axis, label

    @property
    def names(self) -> list[str]:
        """The names of all axes, those that vary settings last."""
        return [*AXES, *(axis for axis in self.choices if axis not in AXES)]

    def add_problem(self, key: str, message: str) -> None:
        """Add a problem at a key path of the study file."""
        self.problems.append(Problem(f"{self.location}: {key}", message))

    def read(self, axes: Mapping[str, Sequence[Element]]) -> None:
        """Read the choices of every axis; an axis that is left out gets GPT-2's variant."""
        for axis, about in AXES.items():
            self.choices[axis] = self._read_axis(axis, axes.get(axis, [about.default]))
        for axis, elements in axes.items():
            if axis in AXES:
                continue
            problem = f"no such axis; {choices(axis, AXES)}"
            if setting_axes.is_setting_axis(axis, elements):
                problem = setting_axes.axis_problem(axis) or ""
            if problem:
                self.add_problem(f"axes.{quoted(axis)}", problem)
            else:
                self.choices[axis] = self._read_axis(axis, elements)
        levels = {axis: self.choices[axis] for axis in self.choices if axis not in AXES}
        for axis, problem in setting_axes.structure_problems(levels):
            if (axis, "") not in self._invalid:
                self.add_problem(f"axes.{quoted(axis)}", problem)

    def _read_axis(self, axis: str, elements: Sequence[Element]) -> list[VariantChoice]:
        """Read an axis without its duplicates.

        A duplicate with its own label is kept: two entries that are the same measure the noise (an
        A/A test). Different choices with one label are a problem.
        """
        kept: list[VariantChoice] = []
        for i, element in enumerate(elements):
            key = f"axes.{quoted(axis)}[{i}]"
            choice = self._new_choice(axis, element, key)
            if choice is None:
                self._add_invalid(axis, element)
                continue
            has_own_label = isinstance(element, dict) and "label" in element
            duplicates = [other for other in kept if same_variant(choice, other)]
            if axis in AXES and any(
                not has_own_label or other.label == choice.label for other in duplicates
            ):
                continue
            for other in kept:
                problem = setting_axes.label_problem(choice.label, other.label)
                if problem:
                    self.add_problem(f"axes.{quoted(axis)}", problem)
            kept.append(choice)
        titles = distinct({choice.label: choice.title for choice in kept})
        return [choice.model_copy(update={"title": titles[choice.label]}) for choice in kept]

    @property
    def has_invalid(self) -> bool:
        """Whether an axis lacks a choice of the study because it is invalid."""
        return bool(self._invalid)

    def _add_invalid(self, axis: str, element: Element) -> None:
        """Remember the names of an invalid choice, which rules may refer to."""
        self._invalid.add((axis, ""))
        names: list[object] = [element]
        if isinstance(element, dict):
            names = [element.get(key) for key in ("variant", "label", "value")]
        self._invalid.update((axis, str(name)) for name in names if name is not None)

    def choose(self, axis: str, element: Element, key: str) -> VariantChoice | None:
        """Return the choice that an element describes, or None if it is invalid.

        For an axis that varies settings, this may also be the name of one of its levels.
        """
        if axis not in AXES:
            named = self.matching(axis, element)
            if named:
                return named[0]
            if "." not in axis and not isinstance(element, dict):
                self.add_problem(key, self._no_match(axis, element))
                return None
        choice = self._new_choice(axis, element, key)
        if choice is None or axis in AXES:
            return choice
        messages = list(setting_axes.addition_problems(choice, self.choices[axis]))
        for message in messages:
            self.add_problem(key, message)
        return None if messages else choice

    def _new_choice(self, axis: str, element: Element, key: str) -> VariantChoice | None:
        try:
            choice = self._read_choice(axis, element, key)
        except UserError as error:
            self.problems += error.problems
            return None
        self._places.setdefault((axis, choice.label), key)
        return choice

    def _read_choice(self, axis: str, element: Element, key: str) -> VariantChoice:
        if axis not in AXES:
            level, problems = setting_axes.read_level(axis, element)
            if level is None:
                raise UserError(self._problem(key + suffix, text) for suffix, text in problems)
            return level
        given = dict(element) if isinstance(element, dict) else {"variant": element}
        name = self._variant_name(axis, given.pop("variant", None), key)
        label = given.pop("label", None)
        if label is not None and not (isinstance(label, str) and LABEL.fullmatch(label)):
            raise self._error(f"{key}.label", f"{label!r}: {LABEL_FORM}")
        options = self._options(axis, name, given, key)
        given_options = {option: options[option] for option in options if option in given}
        form = self._title_form(axis, name)
        return VariantChoice(
            name=name,
            label=label or default_label(name, given_options),
            options=options,
            title=label or default_title(form, name, options, given),
        )

    def _variant_name(self, axis: str, name: object, key: str) -> str:
        available = variant_files(axis, self.paths)
        if not isinstance(name, str):
            form = 'must be a name or a table with `variant = "NAME"`'
            raise self._error(key, f"{form}; allowed: {', '.join(available)}")
        if name not in available:
            raise self._error(key, f"'{name}': no such {axis} variant; {choices(name, available)}")
        return name

    def _options(self, axis: str, name: str, given: dict[str, Any], key: str) -> dict[str, Any]:
        """Return the given options of a variant, and the defaults of the others.

        Raises:
            UserError: an option is unknown, or one without a default is missing.
        """
        defaults = read_defaults(variant_files(axis, self.paths)[name])
        if defaults is None:
            return given
        problems = []
        for option in given.keys() - defaults.keys():
            message = f"unknown key; {choices(option, defaults)}"
            problems.append(self._problem(f"{key}.{option}", message))
        for option, default in defaults.items():
            if default is REQUIRED and option not in given:
                message = "missing, and has no default"
                problems.append(self._problem(f"{key}.{option}", message))
        if problems:
            raise UserError(problems)
        options = defaults | given
        return {option: value for option, value in options.items() if value is not COMPUTED}

    def _title_form(self, axis: str, name: str) -> str:
        """Return the title of a variant as a format string over its options; empty without one."""
        file = variant_files(axis, self.paths)[name]
        form = read_title(file)
        computed = [key for key, value in (read_defaults(file) or {}).items() if value is COMPUTED]
        return "" if any(f"{{{option}}}" in form for option in computed) else form

    def changes(self, entry: VariantSelection) -> dict[str, Change]:
        """Return the settings of an entry's levels, by dotted key, with their places."""
        changes = {}
        for axis, choice in entry.items():
            place = self._places.get((axis, choice.label), f"axes.{quoted(axis)}")
            for key, value in choice.options.items() if axis not in AXES else ():
                changes[key] = Change(value, place if key == axis else f"{place}.{key}")
        return changes

    def _problem(self, key: str, message: str) -> Problem:
        return Problem(f"{self.location}: {key}", message)

    def _error(self, key: str, message: str) -> UserError:
        return UserError([self._problem(key, message)])

    def matching(self, axis: str, name: object) -> list[VariantChoice]:
        """Return the choices of an axis whose label, variant or value is `name`."""
        if axis not in AXES:
            return [level for level in self.choices[axis] if setting_axes.matches(level, name)]
        return [choice for choice in self.choices[axis] if name in (choice.label, choice.name)]

    def baseline(
        self, stated: Mapping[str, object], sections: Mapping[str, RawTable]
    ) -> VariantSelection:
        """Return the baseline's choice on each axis.

        It is the stated one, else GPT-2's variant or the level with the values of the sections,
        else the first.
        """
        for axis in stated.keys() - set(self.names):
            message = f"no such axis; {choices(axis, self.names)}"
            self.add_problem(f"study.baseline.{quoted(axis)}", message)
        baseline = {}
        for axis in self.names:
            if axis in stated:
                if not self._is_known(axis, stated[axis]):
                    key = f"study.baseline.{quoted(axis)}"
                    self.add_problem(key, self._no_match(axis, stated[axis]))
                candidates = self.matching(axis, stated[axis])
            elif axis in AXES:
                candidates = self.matching(axis, AXES[axis].default)
            else:
                candidates = setting_axes.unchanged(self.choices[axis], sections)
            if candidates or self.choices[axis]:
                baseline[axis] = [*candidates, *self.choices[axis]][0]
        return baseline

    def resolve_rule(self, rule: Rule, key: str) -> dict[str, list[VariantChoice]]:
        """Return the choices that an `exclude` rule names, for each axis that it names."""
        resolved = {}
        for axis, names in rule.items():
            place = f"{key}.{quoted(axis)}"
            if axis not in self.names:
                message = f"no such axis; {choices(axis, [*self.names, 'reason'])}"
                self.add_problem(place, message)
                continue
            resolved[axis] = self._resolve(axis, names, place)
        return resolved

    def _resolve(self, axis: str, names: object, key: str) -> list[VariantChoice]:
        listed = names if isinstance(names, list) else [names]
        matched: list[VariantChoice] = []
        for name in listed:
            if not self._is_known(axis, name):
                self.add_problem(key, self._no_match(axis, name))
            matched += self.matching(axis, name)
        return [choice for choice in self.choices[axis] if choice in matched]

    def _is_known(self, axis: str, name: object) -> bool:
        """Return whether a name matches a choice, or one that is invalid and reported as such."""
        return bool(self.matching(axis, name)) or (axis, str(name)) in self._invalid

    def _no_match(self, axis: str, name: object) -> str:
        labels = [choice.label for choice in self.choices[axis]]
        return f"{name!r} matches nothing; {choices(str(name), labels)}"

    def select(self, conditions: Sequence[str]) -> dict[str, list[VariantChoice]]:
        """Return the choices that `AXIS=NAME` conditions of the command line select, by axis.

        Raises:
            UserError: no such axis, or no choice on it has that label or variant.
        """
        selected: dict[str, list[VariantChoice]] = {}
        for condition in conditions:
            axis, equals, names = condition.partition("=")
            if not equals or axis not in self.names:
                allowed = choices(axis, self.names)
                raise UserError(f"--where {condition}: must be AXIS=NAME; {allowed}")
            for name in names.split(","):
                if not self.matching(axis, name):
                    raise UserError(f"--where {condition}: {self._no_match(axis, name)}")
                selected.setdefault(axis, []).extend(self.matching(axis, name))
        return selected


def same_variant(a: VariantChoice, b: VariantChoice) -> bool:
    """Return whether two choices differ in their label and title only, or not at all."""
    return (a.name, a.options) == (b.name, b.options)


def entry_id(entry: VariantSelection, file: StudyFile) -> str:
    """Return the joined labels of an entry, without axes that the study does not mention."""
    mentioned = set(file.axes).union(*file.include)
    labels = [
        choice.label
        for axis, choice in entry.items()
        if axis not in AXES or AXES[axis].in_every_name or axis in mentioned
    ]
    return "-".join(labels)
