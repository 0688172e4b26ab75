"""Check the `[ladder]` of a study: the axis over whose levels scaling laws are fitted."""

from collections.abc import Iterator, Mapping, Sequence

from harness.errors import Problem, choices
from harness.results.records import LadderSettings, VariantChoice

MIN_SIZES = 3  # a law has three parameters
# Settings that change the training FLOPs.
SIZE_KEYS = ("model.n_layer", "model.n_embd", "train.steps", "train.tokens_per_step")
# Not the sequence length: losses at different lengths are not comparable.


def check_ladder(
    location: str,
    ladder: LadderSettings | None,
    compare: Sequence[str] | None,
    entries: Sequence[Mapping[str, VariantChoice]],
) -> Iterator[Problem]:
    """The ladder's axis varies settings over three sizes or more, and is context."""
    if ladder is None or not entries:
        return
    axis = ladder.axis
    levels = _levels(entries)
    key = f"{location}: ladder.axis"
    candidates = [name for name, by_label in levels.items() if _n_sizes(by_label) >= MIN_SIZES]
    if axis not in levels:
        yield Problem(key, f"'{axis}': no such axis; {choices(axis, candidates)}")
        return
    n_sizes = _n_sizes(levels[axis])
    if not any(choice.is_setting for choice in levels[axis].values()):
        allowed = ", ".join(candidates) or "none of this study's"
        yield Problem(
            key,
            f"'{axis}' is an axis of variants; allowed: an axis that varies settings ({allowed})",
        )
    elif n_sizes < MIN_SIZES:
        yield Problem(
            key,
            f"'{axis}' has {n_sizes} of the {MIN_SIZES} sizes or more that a scaling law needs; "
            f"add levels that differ in {', '.join(SIZE_KEYS)}",
        )
    if compare is not None and axis in compare:
        yield Problem(
            f"{location}: study.compare[{list(compare).index(axis)}]",
            f"'{axis}' is the ladder's axis: sizes are fitted, not compared; remove it",
        )
    others = [name for name, by_label in levels.items() if name != axis and len(by_label) > 1]
    if compare is None and others:
        yield Problem(
            f"{location}: study.compare",
            f"missing: a study with a ladder names the axes that it asks about; "
            f"allowed: {', '.join(others)}",
        )


def _levels(
    entries: Sequence[Mapping[str, VariantChoice]],
) -> dict[str, dict[str, VariantChoice]]:
    """Return the choices of each axis by label."""
    levels: dict[str, dict[str, VariantChoice]] = {}
    for entry in entries:
        for axis, choice in entry.items():
            levels.setdefault(axis, {})[choice.label] = choice
    return levels


def _n_sizes(by_label: Mapping[str, VariantChoice]) -> int:
    """Return the number of distinct sizes among the levels of an axis of settings, else 0."""
    sizes = set()
    for choice in by_label.values():
        if choice.is_setting:
            sizes.add(tuple(choice.options.get(key) for key in SIZE_KEYS))
    return len(sizes)
