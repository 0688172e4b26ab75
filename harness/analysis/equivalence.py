"""Check that a run on several processes trains the same model as the single-process run.

Runs of the same seed that differ only in parallelism are compared. These must agree: the parameters
before the first step, bitwise; the loss and gradient norm of the first steps, within the tolerance
of the precision; and the final parameters of all ranks, bitwise. Deviations of later steps are
reported only, since training amplifies rounding errors.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.metrics import DIVERGES, PARALLELISM, under_baseline_parallelism
from harness.results.records.entries import EquivalenceStatus
from harness.results.records.study_summary import Equivalence
from harness.results.run_data import RunData

N_FIRST = 5  # steps: enough to expose a wrong update, too few for rounding errors to grow


@dataclass(frozen=True)
class Tolerance:
    """The largest relative deviations in the first steps that rounding explains."""

    loss: float
    grad_norm: float


# Ranks add the same numbers in another order. In fp32 (unit roundoff 6e-8) the losses then differ
# by about 1e-7, and by up to 1e-6 after a few steps of Adam, which divides by the gradient's
# magnitude and so amplifies noise in gradients near zero. Gradient norms are less well conditioned.
# In bf16 (unit roundoff 4e-3) tensor parallelism rounds the outputs of some heads before it adds
# them: measured in a small model, 6e-4 of the loss and 1e-2 of the norm. Sharded parameters are
# rounded as in one process and agree as in fp32. Faults are larger: a missing all-reduce, another
# batch on a rank, or an untied output projection changes the first gradient norm by 10 % and more.
# Those of fp8 (unit roundoff 6e-2) are the ones of bf16 times the ratio of the roundoffs: no
# parallelism of several processes supports it yet.
TOLERANCES = {
    "fp32": Tolerance(1e-5, 1e-4),
    "bf16": Tolerance(2e-3, 2e-2),
    "fp8": Tolerance(3e-2, 3e-1),
}

# from the best to the worst
STATUSES: tuple[EquivalenceStatus, ...] = ("not checked", "bitwise", "within tolerance", DIVERGES)


def check(study: StudyResults) -> list[Equivalence]:
    """Check each run that is done and has a reference entry or several processes.

    Nothing is known about the processes of imported runs: they are not checked.
    """
    rows: list[Equivalence] = []
    for entry in () if study.imported else study.entries:
        base = reference(study, entry)
        if base is None and world_size(entry) == 1:
            continue
        base_runs = {run.seed: run for run in base.done} if base else {}
        rows += [_check(entry, run, base, base_runs.get(run.seed)) for run in entry.done]
    return rows


def by_entry(rows: Iterable[Equivalence]) -> dict[str, EquivalenceStatus]:
    """Return each entry's verdict: the worst of its seeds, `not checked` if none was checked."""
    worst: dict[str, EquivalenceStatus] = {}
    for row in rows:
        worst[row.entry] = max(worst.get(row.entry, STATUSES[0]), row.verdict, key=STATUSES.index)
    return worst


def diverging(rows: Iterable[Equivalence]) -> set[str]:
    """Return the labels of the entries that do not reproduce the single-process run."""
    return {label for label, status in by_entry(rows).items() if status == DIVERGES}


def world_size(entry: Entry) -> int:
    """Return the number of processes of an entry."""
    return entry.runs[0].resolved.launch.world_size


def reference(study: StudyResults, entry: Entry) -> Entry | None:
    """Return the entry that this one must be equivalent to; None if it is itself the reference.

    It has the same labels except for the parallelism, and one process; the baseline's parallelism
    is preferred. If no such entry exists, it is the entry with the baseline's parallelism.
    """
    others = [
        study.find(entry.axes | {PARALLELISM: label}) for label in study.levels.get(PARALLELISM, ())
    ]
    single = [other for other in others if other and world_size(other) == 1]
    if not single:
        return under_baseline_parallelism(study, entry)
    baseline = study.baseline.get(PARALLELISM)
    preferred = min(single, key=lambda other: other.axes[PARALLELISM] != baseline)
    return None if preferred is entry else preferred


def _check(entry: Entry, run: RunData, base: Entry | None, other: RunData | None) -> Equivalence:
    final_hashes = run.measured.final_hashes
    row = Equivalence(
        entry=entry.label,
        against=base.label if base else None,
        seed=run.seed,
        ranks_agree=len(set(final_hashes)) == 1 if final_hashes else None,
    )
    if other is not None:
        row = row.model_copy(update=_deviations(run, other))
    verdict, reason = _verdict(row, run, other)
    return row.model_copy(update={"verdict": verdict, "reason": reason})


def _verdict(
    row: Equivalence, run: RunData, other: RunData | None
) -> tuple[EquivalenceStatus, str | None]:
    """Return the verdict and its reason."""
    faults = _faults(row)
    if faults:
        return DIVERGES, "; ".join(faults)
    if other is None:
        if row.against is None:
            return "not checked", "no single-process entry in the study"
        return "not checked", f"{row.against} of seed {run.seed} is not done"
    if row.bitwise:
        return "bitwise", None
    if run.resolved.model.dropout:
        reason = "dropout: ranks draw different masks, so only the initial parameters were compared"
        return "not checked", reason
    return "within tolerance", None


def _deviations(run: RunData, other: RunData) -> dict[str, float | bool | None]:
    """Return the fields of `Equivalence` that compare two runs."""
    n_steps = min(len(run.steps), len(other.steps))
    losses = run.steps.loss[:n_steps]
    base_losses = other.steps.loss[:n_steps]
    grad_norms = run.steps.grad_norm[:N_FIRST]
    base_grad_norms = other.steps.grad_norm[:N_FIRST]
    deviations = np.abs(losses - base_losses)
    initial_hash = run.measured.initial_hash
    base_hash = other.measured.initial_hash
    precision = run.measured.communication_dtype or run.resolved.train.precision
    tolerance = None if run.resolved.model.dropout else TOLERANCES[precision]
    n_first = min(n_steps, N_FIRST)
    return {
        "bitwise": len(run.steps) == len(other.steps) and bool(np.array_equal(losses, base_losses)),
        "initial_hash_equal": initial_hash == base_hash if initial_hash and base_hash else None,
        "max_rel_loss_dev_first5": _relative(losses[:n_first], base_losses[:n_first]),
        "max_rel_grad_norm_dev_first5": _relative(grad_norms[:n_first], base_grad_norms[:n_first]),
        "rel_loss_tolerance": tolerance.loss if tolerance else None,
        "rel_grad_norm_tolerance": tolerance.grad_norm if tolerance else None,
        "abs_loss_dev_first": float(deviations[0]),
        "abs_loss_dev_last": float(deviations[-1]),
        "max_abs_loss_dev": float(deviations.max()),
        "abs_val_loss_dev": abs(run.final_loss - other.final_loss),
    }


def _relative(values: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest relative deviation."""
    scale = np.maximum(np.abs(expected), np.finfo(float).tiny)
    return float(np.max(np.abs(values - expected) / scale))


def _faults(row: Equivalence) -> list[str]:
    """Return the reasons why a run diverges. A deviation that is NaN is one."""
    faults = []
    if row.initial_hash_equal is False:
        faults.append("its initial parameters differ")
    for quantity, deviation, tolerance in (
        ("loss", row.max_rel_loss_dev_first5, row.rel_loss_tolerance),
        ("gradient norm", row.max_rel_grad_norm_dev_first5, row.rel_grad_norm_tolerance),
    ):
        if deviation is not None and tolerance is not None and not deviation <= tolerance:
            faults.append(
                f"{quantity} of the first {N_FIRST} steps deviates by {deviation:.1e}, "
                f"more than {tolerance:.0e}"
            )
    if row.ranks_agree is False:
        faults.append("its ranks ended with different parameters")
    return faults
