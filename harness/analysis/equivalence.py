"""Before a speed counts: whether a run on several processes trains the model that one process trains.

Compared are runs of the same seed that differ in the parallelism alone. What must agree: the parameters before the
first step, to the bit; loss and gradient norm of the first steps, within the precision's tolerance; and, at the end,
the ranks' parameters among themselves, to the bit. How far the rest of the curve deviates is told and not judged:
training amplifies rounding errors.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.metrics import (
    DIVERGES,
    PARALLELISM,
    EquivalenceStatus,
    under_baseline_parallelism,
)
from harness.results.run_data import RunData

N_FIRST = 5  # steps: long enough for a wrong update to show, too short for rounding errors to grow


@dataclass(frozen=True)
class Tolerance:
    """The largest relative deviation of loss and of gradient norm in the first steps that is put down to rounding."""

    loss: float
    grad_norm: float


# Ranks add up the same numbers in another order. In fp32 (unit roundoff 6e-8) the sums of a loss then differ by some
# 1e-7, and by up to 1e-6 after a few steps of Adam, which divides by the size of a gradient and so lifts the noise of
# those near zero; a gradient's norm is less well conditioned than a loss. In bf16 (unit roundoff 4e-3) sharding rounds
# embeddings and gains that one process keeps in fp32, and each gradient is rounded once for each micro-batch: measured
# in a small model, 4e-4 of the loss and 1.5e-3 of the norm. A fault is larger: a forgotten all-reduce, another batch on
# a rank, or an untied output projection changes the first gradient's norm by a tenth and more.
TOLERANCES = {"fp32": Tolerance(1e-5, 1e-4), "bf16": Tolerance(2e-3, 2e-2)}


@dataclass(frozen=True)
class Equivalence:
    """One seed of an entry beside the same on one process (else under the baseline's parallelism).

    The deviations are the largest: relative ones of loss and gradient norm over the first `N_FIRST` steps, else
    absolute ones of the loss, nats per token. `bitwise` means that every training loss is identical;
    `initial_hash_equal` and `ranks_agree` (at the end) are None where a hash is missing. `reason` tells why the verdict
    is `DIVERGES` or `not checked`; numbers are None where there is nothing to compare with.
    """

    entry: str
    against: str | None
    seed: int
    verdict: EquivalenceStatus
    reason: str | None
    bitwise: bool | None
    initial_hash_equal: bool | None
    ranks_agree: bool | None
    max_rel_loss_dev_first5: float | None = None
    max_rel_grad_norm_dev_first5: float | None = None
    rel_loss_tolerance: float | None = None
    rel_grad_norm_tolerance: float | None = None
    abs_loss_dev_first: float | None = None
    abs_loss_dev_last: float | None = None
    max_abs_loss_dev: float | None = None
    abs_val_loss_dev: float | None = None


def equivalence(study: StudyResults) -> list[Equivalence]:
    """Check each done run that has something to be equivalent to, or that several processes trained."""
    rows = []
    for entry in study.entries:
        base = reference(study, entry)
        if base is None and world_size(entry) == 1:
            continue
        by_seed = {run.seed: run for run in base.done} if base else {}
        rows += [_check(entry, run, base, by_seed.get(run.seed)) for run in entry.done]
    return rows


def verdicts(rows: Iterable[Equivalence]) -> dict[str, EquivalenceStatus]:
    """Return each entry's verdict: the worst of the seeds that were checked, `not checked` if none was."""
    order: tuple[EquivalenceStatus, ...] = ("not checked", "bitwise", "within tolerance", DIVERGES)
    found: dict[str, EquivalenceStatus] = {}
    for row in rows:
        found[row.entry] = max(found.get(row.entry, order[0]), row.verdict, key=order.index)
    return found


def world_size(entry: Entry) -> int:
    """Return on how many processes the entry runs; 1 where its spec does not say."""
    return entry.runs[0].spec.launch.world_size


def reference(study: StudyResults, entry: Entry) -> Entry | None:
    """Return what the entry must be equivalent to; None for that one itself, and where there is none.

    It has the same labels but for the parallelism, and one process, or, where there is no such entry, the baseline's
    parallelism. Of several with one process it is the baseline's, else the first.
    """
    base = under_baseline_parallelism(study, entry)
    alike = [
        study.find(entry.axes | {PARALLELISM: label}) for label in study.levels.get(PARALLELISM, ())
    ]
    baseline = study.baseline.get(PARALLELISM)
    single = [other for other in alike if other and world_size(other) == 1]
    single.sort(key=lambda other: other.axes[PARALLELISM] != baseline)
    if single:
        return None if single[0] is entry else single[0]
    return base


def _check(entry: Entry, run: RunData, base: Entry | None, other: RunData | None) -> Equivalence:
    final = run.probes.final_hashes if run.probes else None
    ranks_agree = len(set(final)) == 1 if final else None
    row = Equivalence(
        entry.label,
        base.label if base else None,
        run.seed,
        "not checked",
        None,
        None,
        None,
        ranks_agree,
    )
    if other is not None:
        row = _compared(row, run, other)
    faults = _faults(row)
    if faults:
        return replace(row, verdict=DIVERGES, reason="; ".join(faults))
    if other is None:
        what = (
            f"{base.label} of seed {run.seed} is not done"
            if base
            else "no entry on one process in the study"
        )
        return replace(row, reason=what)
    if row.bitwise:
        return replace(row, verdict="bitwise")
    if _dropout(run):
        return replace(
            row, reason="dropout: each rank drops other activations, so only the start was compared"
        )
    return replace(row, verdict="within tolerance")


def _compared(row: Equivalence, run: RunData, other: RunData) -> Equivalence:
    n, first = min(len(run.steps), len(other.steps)), slice(0, N_FIRST)
    losses, losses_base = run.steps.loss[:n], other.steps.loss[:n]
    norms, norms_base = run.steps.grad_norm[:n], other.steps.grad_norm[:n]
    deviation = np.abs(losses - losses_base)
    hashes = (run.measured.initial_hash, other.measured.initial_hash)
    precision = run.measured.communication_dtype or run.spec.train.precision
    tolerance = None if _dropout(run) else TOLERANCES[precision]
    return replace(
        row,
        bitwise=len(run.steps) == len(other.steps) and bool(np.array_equal(losses, losses_base)),
        initial_hash_equal=hashes[0] == hashes[1] if all(hashes) else None,
        max_rel_loss_dev_first5=_relative(losses[first], losses_base[first]),
        max_rel_grad_norm_dev_first5=_relative(norms[first], norms_base[first]),
        rel_loss_tolerance=tolerance.loss if tolerance else None,
        rel_grad_norm_tolerance=tolerance.grad_norm if tolerance else None,
        abs_loss_dev_first=float(deviation[0]),
        abs_loss_dev_last=float(deviation[-1]),
        max_abs_loss_dev=float(deviation.max()),
        abs_val_loss_dev=float(abs(run.evals.val_loss[-1] - other.evals.val_loss[-1])),
    )


def _relative(values: np.ndarray, right: np.ndarray) -> float:
    return float(np.max(np.abs(values - right) / np.maximum(np.abs(right), np.finfo(float).tiny)))


def _dropout(run: RunData) -> bool:
    return bool(run.spec.model.dropout)


def _faults(row: Equivalence) -> list[str]:
    """Return what keeps a run from being the same training; a deviation that is no number is one."""
    faults = []
    if row.initial_hash_equal is False:
        faults.append("it starts from other parameters")
    for what, found, most in (
        ("loss", row.max_rel_loss_dev_first5, row.rel_loss_tolerance),
        ("gradient norm", row.max_rel_grad_norm_dev_first5, row.rel_grad_norm_tolerance),
    ):
        if found is not None and most is not None and not found <= most:
            faults.append(
                f"{what} of the first {N_FIRST} steps deviates by {found:.1e}, more than {most:.0e}"
            )
    if row.ranks_agree is False:
        faults.append("its ranks ended with different parameters")
    return faults
