"""Apply the rules of a study to its entries: exclude, include, and which axes it asks about."""

from collections.abc import Iterator, Sequence

from harness.errors import Problem, UserError, choices
from harness.results.records import VariantChoice
from harness.study.axes import StatedAxes, VariantSelection, entry_id, same_variant
from harness.study.schema_errors import quoted
from harness.study.study_file import StudyFile


def exclude(
    file: StudyFile, axes: StatedAxes, entries: list[VariantSelection]
) -> tuple[list[VariantSelection], list[tuple[str, str]]]:
    """Return the entries that no `exclude` rule matches, and the excluded ones with the reason."""
    reasons: dict[str, str] = {}
    for i, rule in enumerate(file.exclude):
        conditions = dict(rule)
        reason = conditions.pop("reason", None)
        if not isinstance(reason, str) or not reason.strip():
            axes.add_problem(
                f"exclude[{i}].reason", f"{reason!r}: an exclusion needs a reason, as text"
            )
        n_problems = len(axes.problems)
        allowed = axes.resolve_rule(conditions, f"exclude[{i}]")
        matched = [entry for entry in entries if allowed and matches(entry, allowed)]
        if not matched and len(axes.problems) == n_problems and not axes.has_invalid:
            axes.add_problem(f"exclude[{i}]", "matches no entry; remove the rule")
        for entry in matched:
            reasons[entry_id(entry, file)] = str(reason)
    kept = [entry for entry in entries if entry_id(entry, file) not in reasons]
    return kept, list(reasons.items())


def include(
    file: StudyFile, axes: StatedAxes, entries: list[VariantSelection], baseline: VariantSelection
) -> list[VariantSelection]:
    """Return the entries that `include` rules add; axes that a rule omits are the baseline's."""
    added: list[VariantSelection] = []
    for i, rule in enumerate(file.include):
        for axis in rule.keys() - set(axes.names):
            message = f"no such axis; allowed: {', '.join(axes.names)}"
            axes.add_problem(f"include[{i}].{quoted(axis)}", message)
        chosen = {
            axis: axes.choose(axis, rule[axis], f"include[{i}].{quoted(axis)}")
            for axis in axes.names
            if axis in rule
        }
        entry: VariantSelection = {}
        for axis in axes.names:
            choice = chosen.get(axis, baseline.get(axis))
            if choice is None:
                continue
            entry[axis] = choice
            if choice not in axes.choices[axis]:
                axes.choices[axis].append(choice)  # conditions of the command line may name it
        present = [*entries, *added]
        if len(entry) < len(axes.names) or any(_same_entry(entry, other) for other in present):
            continue
        name = entry_id(entry, file)
        if name.casefold() in (entry_id(other, file).casefold() for other in present):
            message = f"two different entries are labelled {name}; give one a `label`"
            axes.add_problem(f"include[{i}]", message)
        added.append(entry)
    return added


def matches(entry: VariantSelection, allowed: dict[str, list[VariantChoice]]) -> bool:
    """Return whether an entry has one of the allowed choices on each of these axes."""
    return all(entry[axis] in listed for axis, listed in allowed.items())


def _same_entry(a: VariantSelection, b: VariantSelection) -> bool:
    return all(same_variant(a[axis], b[axis]) for axis in a)


def check_compare(
    location: str,
    compare: Sequence[str] | None,
    entries: Sequence[VariantSelection],
    names: Sequence[str],
) -> Iterator[Problem]:
    """The axes that a study asks about have at least two levels among its entries."""
    levels: dict[str, set[str]] = {axis: set() for axis in names}
    for entry in entries:
        for axis, choice in entry.items():
            levels.setdefault(axis, set()).add(choice.label)
    varying = [axis for axis, labels in levels.items() if len(labels) > 1]
    for i, axis in enumerate(compare or ()):
        place = f"{location}: study.compare[{i}]"
        if axis not in levels:
            yield Problem(place, f"'{axis}': no such axis; {choices(axis, varying)}")
        elif axis not in varying and entries:
            reason = f"'{axis}' has one level in this study, so that nothing is compared"
            yield Problem(place, f"{reason}; allowed: {', '.join(varying) or 'none'}")


def select(
    axes: StatedAxes, entries: Sequence[VariantSelection], where: Sequence[str]
) -> list[bool]:
    """Return for each entry whether it matches all conditions of the command line.

    Raises:
        UserError: a condition is invalid, or no entry matches all.
    """
    allowed = axes.select(where)
    selected = [matches(entry, allowed) for entry in entries]
    if not any(selected):
        conditions = " ".join(where)
        raise UserError(
            f"--where {conditions}: no entry in {axes.location} matches all of these conditions"
        )
    return selected
