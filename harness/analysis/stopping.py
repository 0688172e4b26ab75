"""Decide after a look which entries need more seeds."""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.hypotheses import is_copy
from harness.analysis.pairs import margin_of, pair_of
from harness.analysis.power import Noise, predictive_power
from harness.analysis.sequential import is_settled
from harness.results.records import AskedQuantity, Looks
from harness.results.records.comparisons import MetricTests, Quantity

Decision = Literal["continues", "settled", "futile", "lost seeds", "unresolved"]

MIN_POWER = 0.1  # predictive power of a verdict at the last look, below which an entry stops


def decide(
    study: StudyResults, tests: Mapping[Quantity, MetricTests], looks: Looks
) -> dict[str, Decision]:
    """Return for each entry that has a baseline whether it needs more seeds, by its label.

    `settled`: all its questions have a verdict, or none is asked. `futile`: no open question will
    probably have one at the last look. `lost seeds`: a run has failed, so that the entry cannot be
    better or equivalent, however many seeds follow. `unresolved`: it has all seeds of the last
    look.
    """
    decisions: dict[str, Decision] = {}
    for entry in study.entries:
        base = study.baseline_of(entry)
        if base is not None:
            asked = questions(entry, base, looks)
            decisions[entry.label] = _decide(study, entry, asked, tests, looks)
    return decisions


def questions(entry: Entry, base: Entry, looks: Looks) -> list[AskedQuantity]:
    """Return the metrics whose verdicts an entry waits for.

    An entry that differs in parallelism only trains the same model, which the equivalence check
    tests.
    """
    of_copy = is_copy(entry, base)
    return [question for question in looks.questions if question != "val_loss" or not of_copy]


def _decide(
    study: StudyResults,
    entry: Entry,
    asked: list[AskedQuantity],
    tests: Mapping[Quantity, MetricTests],
    looks: Looks,
) -> Decision:
    results = {question: tests[question].entries.get(entry.label) for question in asked}
    open_questions = []
    for question, result in results.items():
        if result is not None and not is_settled(result):
            open_questions.append((question, result))
    if not open_questions:
        is_tested = any(result is not None for result in results.values())
        return "lost seeds" if entry.lost_seeds and asked and not is_tested else "settled"
    if any(result.lost_seeds for _, result in open_questions) and entry.lost_seeds:
        return "lost seeds"
    if set(looks.looks[-1].seeds) <= {*entry.ended_seeds}:
        return "unresolved"
    for question, _ in open_questions:
        if not _is_futile(study, entry, tests[question], looks):
            return "continues"
    return "futile"


def _is_futile(study: StudyResults, entry: Entry, tests: MetricTests, looks: Looks) -> bool:
    pair = pair_of(study, entry, tests.quantity)
    differences = list(pair.differences().values()) if pair is not None else []
    if pair is None or len(differences) < 2:
        return False
    context = study.context_name(entry)
    families = [family for family in tests.families if family.context == context]
    family = next((family for family in families if entry.label in family.entries), None)
    own = Noise(float(np.std(differences, ddof=1)), len(differences) - 1)
    pooled = own
    if family is not None and family.noise and family.degrees_of_freedom:
        pooled = Noise(family.noise, family.degrees_of_freedom)
    last = looks.looks[-1]
    power = predictive_power(
        float(np.mean(differences)),
        own,
        pooled,
        n_now=len(differences),
        n_last=len(last.seeds),
        n_comparisons=len(family.entries) if family is not None else 1,
        margin=pair.margin(margin_of(study, tests.quantity)),
        alpha=last.level,
        rule="two keys" if family is not None and family.method == "two keys" else "Holm",
    )
    return max(power.different, power.equivalent) < MIN_POWER
