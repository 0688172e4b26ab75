"""Read one run from the store, whole and checked; what cannot be read is named with the reason, never raised."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from harness.results.checks import check
from harness.results.store import Json, Run, Steps, StoreError

LOG_LINES = 20

PHASES = ("forward", "backward", "optimizer", "waiting", "other")  # of a step
Place = tuple[
    int, int
]  # of the decode probe: sequences at once (batch), positions in the cache (context)


@dataclass(frozen=True)
class Evals:
    """The evaluations of a run as columns, each of shape (n_evals,)."""

    step: np.ndarray
    val_loss: np.ndarray
    bits_per_byte: np.ndarray
    train_s: np.ndarray


@dataclass(frozen=True)
class DecodeSamples:
    """What the decode probe measured at one place, times of shape (n_samples,); where there is a `reason`, nothing."""

    prefill_s: np.ndarray
    decode_s: np.ndarray
    cache_bytes: int
    reason: str | None


@dataclass(frozen=True)
class LengthLosses:
    """What the length probe measured at one length, nats per token; where there is a `reason`, nothing.

    `by_position` has the means of n equal bins, (n,), one position each if n is the length.
    """

    val_loss: float
    by_position: np.ndarray
    windows: int
    reason: str | None


@dataclass(frozen=True)
class RunData:
    """One run: what it was asked for, how it ended, and all that it recorded. Only a done run has results.

    `decoding` is by batch and context, `lengths` by length; they are empty where the study asked for none. `phases` has
    for each rank the median seconds of each phase of a step (None where it is not known), and is empty where they were
    not measured.
    """

    run_id: str
    spec: Json
    env: Json
    probes: Json
    status: str
    reason: str | None
    message: str | None
    started_at: str | None
    steps: Steps
    evals: Evals
    decoding: dict[Place, DecodeSamples]
    lengths: dict[int, LengthLosses]
    phases: tuple[dict[str, float | None], ...]
    log_tail: list[str]

    @property
    def seed(self) -> int:
        """The seed, by which entries are paired."""
        return int(self.spec["seed"])

    @property
    def order_seed(self) -> int:
        """The seed of the data's order; another than `seed` in runs that tell the two apart."""
        data_seed = self.spec.get("data_seed")
        return self.seed if data_seed is None else int(data_seed)

    @property
    def labels(self) -> dict[str, str]:
        """The label of the variant on each axis."""
        return {axis: choice["label"] for axis, choice in self.spec["axes"].items()}

    @property
    def timed_step_s(self) -> np.ndarray:
        """The slowest rank's time of each step that is timed, warm-up left out; shape (n_timed,)."""
        return self.steps.step_s[~self.steps.warmup]


@dataclass(frozen=True)
class Unreadable:
    """A run's folder (or a file of the study) that cannot be read, and why."""

    name: str
    why: str


def read_run(run: Run) -> RunData | Unreadable:
    """Read all of a run, or say why that is not possible."""
    try:
        status, spec = run.status, run.spec
        with _damage("eval.jsonl"):
            evals = run.evals()
            columns = {
                name: np.array(
                    [np.nan if line[name] is None else line[name] for line in evals], dtype=float
                )
                for name in ("step", "val_loss", "bits_per_byte", "train_s")
            }
        with _damage("steps.rank*.jsonl"):
            steps = run.steps()
        with _damage("probes.json"):
            decoding = dict(_decoded(record) for record in run.probes.get("decoding") or ())
            lengths = dict(_at_length(record) for record in run.probes.get("lengths") or ())
            phases = tuple(_medians(rank) for rank in run.probes.get("phases") or ())
        data = RunData(
            run_id=run.run_id,
            spec=spec,
            env=run.env,
            probes=run.probes,
            status=status["status"],
            reason=status["reason"],
            message=status["message"],
            started_at=status["started_at"],
            steps=steps,
            evals=Evals(**columns),
            decoding=decoding,
            lengths=lengths,
            phases=phases,
            log_tail=run.log_tail(LOG_LINES),
        )
        _check(data)
        return _without_nan(data)
    except StoreError as error:
        return Unreadable(run.run_id, str(error))
    except OSError as error:
        return Unreadable(run.run_id, str(error))


@contextmanager
def _damage(name: str) -> Iterator[None]:
    """Name the file whose content is not what it should be."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise StoreError(f"{name}: {type(error).__name__}: {error}") from error


def _check(run: RunData) -> None:
    """See that a run has what every report needs, so that a damaged one is found here and named."""
    check("spec.json", run.spec)
    if run.status == "done":
        check("probes.json", run.probes)
        for name, found in (("eval.jsonl", run.evals.step), ("steps.rank*.jsonl", run.steps.step)):
            if not len(found):
                raise StoreError(f"{name}: it is done, but this is missing or empty")
    for name, steps in (("eval.jsonl", run.evals.step), ("steps.rank*.jsonl", run.steps.step)):
        if not (np.isfinite(steps).all() and (np.diff(steps) >= 0).all()):
            raise StoreError(f"{name}: the steps are not in order")
    if not (
        np.isfinite(run.steps.step_s).all()
        and (run.steps.step_s > 0).all()
        and (run.steps.tokens > 0).all()
    ):
        raise StoreError("steps.rank*.jsonl: a step has no sound time or tokens")


def _decoded(record: Json) -> tuple[Place, DecodeSamples]:
    """Return the place of a record of the decode probe, and its samples, checked; a reason stands in for them."""
    (batch, context), reason = _whole("decoding", record, "batch", "context"), record["reason"]
    if reason is not None:
        return (batch, context), DecodeSamples(
            np.empty(0), np.empty(0), 0, str(reason) or "no reason given"
        )
    prefill_s, decode_s = (np.array(record[key], dtype=float) for key in ("prefill_s", "decode_s"))
    for times_s in (prefill_s, decode_s):
        if (
            times_s.ndim != 1
            or not len(times_s)
            or not (np.isfinite(times_s) & (times_s > 0)).all()
        ):
            raise ValueError(
                f"decoding: batch {batch}, context {context} has neither sound times nor a reason"
            )
    (cache_bytes,) = _whole("decoding", record, "cache_bytes")
    return (batch, context), DecodeSamples(prefill_s, decode_s, cache_bytes, None)


def _at_length(record: Json) -> tuple[int, LengthLosses]:
    """Return the length of a record of the length probe, and its losses, checked; a reason stands in for them."""
    (length,), reason = _whole("lengths", record, "length"), record["reason"]
    if reason is not None:
        return length, LengthLosses(np.nan, np.empty(0), 0, str(reason) or "no reason given")
    val_loss, by_position = (
        float(record["val_loss"]),
        np.array(record["loss_by_position"], dtype=float),
    )
    if (
        by_position.ndim != 1
        or not 0 < len(by_position) <= length
        or not np.isfinite([val_loss, *by_position]).all()
    ):
        raise ValueError(f"lengths: {length} has neither sound losses nor a reason")
    (windows,) = _whole("lengths", record, "windows")
    return length, LengthLosses(val_loss, by_position, windows, None)


def _medians(rank: Json) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for phase in PHASES:
        samples = [value for value in rank[f"{phase}_s"] if value is not None]
        if not np.isfinite(samples).all() or (not samples and phase != "waiting"):
            raise ValueError(f"phases: {phase} has no sound times")
        found[phase] = float(np.median(samples)) if samples else None
    return found


def _whole(probe: str, record: Json, *keys: str) -> list[int]:
    values = [record[key] for key in keys]
    if not all(isinstance(value, int) and value > 0 for value in values):
        raise ValueError(
            f"{probe}: {', '.join(keys)} must be whole and above zero, and not {values}"
        )
    return values


def _without_nan(run: RunData) -> RunData:
    """Turn a run whose last evaluation is not a finite number into a failed one: it has no result."""
    if run.status != "done" or np.isfinite(run.evals.val_loss[-1]):
        return run
    return replace(
        run,
        status="failed",
        reason="nan",
        message="its last validation loss is not a finite number",
    )
