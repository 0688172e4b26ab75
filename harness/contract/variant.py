"""The full contract of one variant: its part and a model with it, at samples of its options."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.contract import parts
from harness.contract.architecture import Architecture, one_thread, short_shape
from harness.contract.checks import Check, CheckResult, run_checks
from harness.contract.model import Conditions, model_results
from harness.contract.options import changed, samples
from harness.contract.parts import PartFactory
from harness.contract.violation import Violation
from variants.base import Attention, FeedForward, ModelShape, Norm, Part, Positional

GRADIENT_LENGTH = 7  # finite differences need few positions


def run_all(
    axis: str,
    cls: type[Part],
    options: Any,
    shape: ModelShape,
    others: Mapping[str, Sequence[object]] | None = None,
) -> list[CheckResult]:
    """Return the outcome of every check of a variant, in a model of GPT-2's other variants.

    The checks run with `options`, and with each boolean and literal option at its other values.
    `others` has values of other options, by name. A failure with other options than the given ones
    names those that differ.
    """
    outcomes: dict[str, CheckResult] = {}
    for sample in samples(cls, options, shape, others):
        difference = changed(sample, options)
        for result in _results(axis, cls, sample, shape):
            before = outcomes.get(result.name)
            if before is None or (before.outcome != "failed" and result.outcome == "failed"):
                outcomes[result.name] = _labelled(result, difference)
    return list(outcomes.values())


def _results(axis: str, cls: type[Part], options: Any, shape: ModelShape) -> Iterator[CheckResult]:
    architecture = Architecture.of_entry({}, []).replaced(axis, cls, options)
    results = model_results(architecture, shape, Conditions("bf16", masked_documents=True))
    yield from results
    broken = ("build", "initial values", "output")
    if not any(result.name in broken and result.outcome == "failed" for result in results):
        with one_thread():
            yield from run_checks(part_checks(cls, options, short_shape(architecture, shape)))


def _labelled(result: CheckResult, difference: str) -> CheckResult:
    if not difference or result.outcome != "failed":
        return result
    return replace(result, message=f"with {difference}: {result.message}")


def part_checks(cls: type[Part], options: Any, shape: ModelShape) -> list[Check]:
    """Return the checks that an axis has for its variants."""
    factory = PartFactory(cls, options)
    part = factory.randomized(shape)
    x_BTC = parts.random_input(3, shape.seq_len, shape.n_embd)
    found: dict[str, Callable[[], list[Violation]]] = {}
    if isinstance(part, Norm | FeedForward):
        found["positionwise"] = lambda: parts.is_not_positionwise(part, x_BTC)
    if isinstance(part, Attention | FeedForward):
        found["dropout"] = lambda: parts.drops_out_wrongly(factory, shape)
    if isinstance(part, Attention):
        none = parts.no_positional()
        found["prefix"] = lambda: parts.depends_on_later_positions(part, none, shape)
    if isinstance(part, Positional):
        found["positions"] = lambda: [
            *parts.depends_on_more_than_positions(part, shape),
            *parts.changes_precision(part, shape),
        ]
    else:
        found["bf16"] = lambda: parts.is_imprecise_in_bf16(part, x_BTC)
    short = replace(shape, seq_len=min(GRADIENT_LENGTH, shape.seq_len))
    if cls.check(short, options):
        short = shape
    small = factory.randomized(short)
    found["differences"] = lambda: parts.has_wrong_gradients(small, short)
    return [Check(name, find) for name, find in found.items()]
