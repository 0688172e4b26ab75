"""Run the checks of the contract on each distinct model of some runs."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.contract.architecture import Architecture
from harness.contract.checks import CheckResult
from harness.contract.flops import count_flops
from harness.contract.model import Conditions, model_results
from harness.contract.optimizer import optimizer_results
from harness.contract.violation import Violation
from harness.preflight.cache import Cache, Outcome
from harness.results.records import RunSpec
from variants import registry
from variants.base import AXES, ModelShape, is_part
from variants.errors import CODE_ERRORS, SHIPPED

QUIET_S = 2.0  # checks that take longer report their progress
CAUSALITY = "causality"  # the check that a study may permit to fail


@dataclass(frozen=True)
class CheckedModel:
    """A model or an optimizer: the outcome of each check, and the ids of its runs."""

    label: str
    run_ids: frozenset[str]
    results: Sequence[CheckResult]
    flops_per_token: float | None  # as counted, if the variants' formulas are wrong

    @property
    def violations(self) -> list[Violation]:
        """All violations, of all checks."""
        return [violation for result in self.results for violation in result.violations]


def check_models(specs: Sequence[RunSpec], log: Callable[[str], None]) -> list[CheckedModel]:
    """Return the outcomes of all checks of each distinct model; known ones are not run again.

    `log` takes lines about the progress, if the checks take long.
    """
    checked = _check_optimizers(specs)
    cache = Cache()
    groups: dict[str, list[RunSpec]] = {}
    for spec in specs:
        groups.setdefault(_model_key(spec), []).append(spec)
    axes = _shown_axes(specs)
    started = time.monotonic()
    announced = False
    n_new = 0
    models = []
    for n_checked, runs in enumerate(groups.values()):
        spec = runs[0]
        key = cache.key(spec)
        outcome = cache.read(key)
        if outcome is None:
            n_new += 1
            outcome = _check(spec)
            if not any(map(_is_a_fault, outcome.results)):
                cache.write(key, outcome)
        label = "-".join(spec.axes[axis].label for axis in axes)
        run_ids = frozenset(run.run_id for run in runs)
        models.append(CheckedModel(label, run_ids, outcome.results, outcome.flops_per_token))
        if time.monotonic() - started > QUIET_S and not announced and n_checked < len(groups) - 1:
            announced = True
            log(f"checking {len(groups)} models before the start; the outcomes are kept")
    if announced:
        log(f"checked {n_new} models in {time.monotonic() - started:.1f} s")
    return [*checked, *models]


def _check_optimizers(specs: Sequence[RunSpec]) -> list[CheckedModel]:
    """Return the outcomes of the checks of the user's own optimizers; the tests check the others.

    They take milliseconds and are not kept.
    """
    groups: dict[str, list[RunSpec]] = {}
    for spec in specs:
        choice = spec.axes["optimizer"]
        paths = [Path(path) for path in spec.launch.variant_paths]
        if not registry.files("optimizer", paths)[choice.name].is_relative_to(SHIPPED):
            groups.setdefault(str((choice.name, choice.options)), []).append(spec)
    checked = []
    for runs in groups.values():
        choice = runs[0].axes["optimizer"]
        paths = [Path(path) for path in runs[0].launch.variant_paths]
        cls = registry.load("optimizer", choice.name, paths)
        results = optimizer_results(cls, cls.Options(**choice.options))
        run_ids = frozenset(run.run_id for run in runs)
        checked.append(CheckedModel(choice.label, run_ids, results, None))
    return checked


def _check(spec: RunSpec) -> Outcome:
    architecture = Architecture.of_entry(spec.axes, spec.launch.variant_paths)
    conditions = Conditions(
        spec.train.precision, spec.train.deterministic, spec.data.documents == "mask"
    )
    shape = ModelShape(**spec.model.model_dump())
    with warnings.catch_warnings(action="ignore"):  # of the user's code
        results = model_results(architecture, shape, conditions)
        if not any(v.check == "flops" for result in results for v in result.violations):
            return Outcome(results)
        try:
            flops = count_flops(architecture, shape)
        except CODE_ERRORS:  # it is a violation in `results`
            return Outcome(results)
    return Outcome(results, flops.counted if flops.differs else None)


def _is_a_fault(result: CheckResult) -> bool:
    """Return whether a check failed that no study permits: it runs again at each start."""
    return result.name != CAUSALITY and any(violation.fatal for violation in result.violations)


def _model_key(spec: RunSpec) -> str:
    """Return a key of all that the checks of a run depend on."""
    choices = [(a, c.name, c.options) for a, c in spec.axes.items() if is_part(a)]
    train = spec.train
    documents = spec.data.documents
    return str((choices, spec.model, train.precision, train.deterministic, documents))


def _shown_axes(specs: Sequence[RunSpec]) -> list[str]:
    """Return the axes whose labels distinguish the models."""
    shown = []
    for axis, about in AXES.items():
        labels = {spec.axes[axis].label for spec in specs}
        if is_part(axis) and (about.in_every_name or labels != {about.default}):
            shown.append(axis)
    for axis, choice in specs[0].axes.items() if specs else ():
        if any(key.startswith("model.") for key in choice.options):
            shown.append(axis)
    return shown
