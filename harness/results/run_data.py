"""Read one run into arrays; a run that cannot be read is named with the reason, never raised."""

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.errors import StoreError
from harness.results.files import REMEDY
from harness.results.records import (
    PHASES,
    CorpusLoss,
    DecodeRecord,
    Environment,
    EvalRecord,
    ExampleScores,
    FailureReason,
    ImportedRun,
    LengthRecord,
    Phase,
    ProbeResults,
    RankMemory,
    RankPhases,
    RunSpec,
    RunState,
)
from harness.results.records.base import MAX_NUMBER
from harness.results.records.examples import HASH_DIGITS
from harness.results.records.study_summary import Unreadable
from harness.results.run import Run
from harness.results.steps import Steps, read_steps

FloatArray = NDArray[np.float64]

ABSENT = "–"  # label on an axis that a run does not have


class DecodeSetting(NamedTuple):
    """One point of the decode probe's grid: number of sequences, positions in the KV cache."""

    batch: int
    context: int


@dataclass(frozen=True)
class Evals:
    """The evaluations of a run as columns of shape (n_evals,).

    `last_by_corpus` are the losses of the last one on each corpus of a mixture.
    """

    step: NDArray[np.int64]
    val_loss: FloatArray
    bits_per_byte: FloatArray
    train_s: FloatArray
    ema_val_loss: FloatArray
    last_by_corpus: list[CorpusLoss] = field(default_factory=list)


@dataclass(frozen=True)
class ExampleValues:
    """A metric of a task by example: hashes of the documents and values, each (n_examples,)."""

    document: NDArray[np.uint64]
    value: FloatArray


@dataclass(frozen=True)
class RunData:
    """One run: its spec, outcome and records. Only a run that is done has `probes`.

    An imported run has no `probes` and no `steps`: what its table does not state is None, NaN or
    empty.

    `decoding` is by setting and `lengths` by length; both are empty if the study requests no such
    probe. `phases` has for each rank the median seconds of each phase of a step (None if unknown);
    it is empty if phases were not measured. `shares_machine` runs trained next to others on their
    host. `timing_run` is the short run that measured the times of this one by itself. `examples`
    has the metrics of tasks that are means over examples, by task and name of the metric.
    """

    run_id: str
    spec: RunSpec | ImportedRun
    env: Environment | None
    probes: ProbeResults | None
    status: RunState
    reason: FailureReason | None
    message: str | None
    started_at: str | None
    steps: Steps
    evals: Evals
    decoding: dict[DecodeSetting, DecodeRecord]
    lengths: dict[int, LengthRecord]
    phases: tuple[dict[Phase, float | None], ...]
    log_tail: list[str]
    accepted_code_hash: str | None = None
    ended_at: str | None = None
    shares_machine: bool = False
    timing_run: "RunData | None" = None
    examples: dict[tuple[str, str], ExampleValues] = field(default_factory=dict)

    @property
    def for_speed(self) -> "RunData":
        """The run that measured the times: the timing run if there is one."""
        return self.timing_run or self

    @property
    def seed(self) -> int:
        """The seed, by which entries are paired."""
        return self.spec.seed

    @property
    def order_seed(self) -> int:
        """The seed of the data order."""
        return self.spec.order_seed

    @property
    def labels(self) -> dict[str, str]:
        """The label of the variant on each axis."""
        return self.spec.labels

    @property
    def imported(self) -> ImportedRun | None:
        """What the table of another trainer states; None for a run of this harness."""
        return self.spec if isinstance(self.spec, ImportedRun) else None

    @property
    def resolved(self) -> RunSpec:
        """The resolved spec of a run of this harness."""
        assert isinstance(self.spec, RunSpec), f"{self.run_id} is imported"
        return self.spec

    @property
    def tokenizer(self) -> str | None:
        """The encoding of the text; None if unknown."""
        return None if self.imported else self.resolved.data.tokenizer

    @property
    def measured(self) -> ProbeResults:
        """The probes of a run of this harness that is done."""
        assert self.probes is not None, f"{self.run_id} is {self.status}"
        return self.probes

    @property
    def parameters(self) -> int | None:
        """The number of parameters, expected if not measured; None if unknown."""
        if self.probes is not None:
            return self.probes.parameters
        return None if self.imported else self.resolved.expected.parameters

    @property
    def flops_per_token(self) -> float | None:
        """The training FLOPs per token; None if unknown."""
        return None if self.imported else self.known_flops_per_token

    @property
    def full_attention_flops_per_token(self) -> float | None:
        """The training FLOPs per token by the convention of PaLM and nanoGPT; None if unknown.

        They are 6 for each parameter, and those of attention to all keys of the sequence, also
        hidden ones: 12 n_layer n_embd seq_len (Chowdhery et al. 2022, appendix B).
        """
        if self.imported or self.parameters is None:
            return None
        model = self.resolved.model
        return 6.0 * self.parameters + 12.0 * model.n_layer * model.n_embd * model.seq_len

    @property
    def known_flops_per_token(self) -> float:
        """The training FLOPs per token of a run of this harness.

        They are those of the formulas, or those counted if the formulas are wrong.
        """
        expected = self.resolved.expected
        if expected.flops_per_token_counted is not None:
            return expected.flops_per_token_counted
        stated = self.probes or expected
        return stated.flops_per_token

    @property
    def final_loss(self) -> float:
        """The last validation loss of a run that is done, nats per token."""
        if self.imported:
            return float(self.imported.evals[-1].val_loss or 0.0)
        return float(self.evals.val_loss[-1])

    @property
    def final_bits_per_byte(self) -> float:
        """The same in bits per byte; NaN if unknown."""
        return float(self.evals.bits_per_byte[-1]) if len(self.evals.step) else math.nan

    @property
    def final_ema_val_loss(self) -> float:
        """The last validation loss of the average of the parameters; NaN without one."""
        return float(self.evals.ema_val_loss[-1]) if len(self.evals.step) else math.nan

    @property
    def total_s(self) -> float | None:
        """The wall time of a run that is done, seconds; of an imported one, its training time.

        None if unknown.
        """
        if self.imported:
            return self.imported.evals[-1].train_s
        time = self.measured.time
        return time.total_s if time else None

    @property
    def memory(self) -> list[RankMemory]:
        """The memory of each rank by category; empty if unknown."""
        return self.probes.memory if self.probes else []

    @property
    def peak_memory_bytes(self) -> int | None:
        """The peak memory of the fullest rank of a run that is done; None if unknown."""
        if self.imported:
            return self.imported.peak_memory_bytes
        return max(rank.peak for rank in self.measured.memory)

    @property
    def tokens_per_step(self) -> float | None:
        """The tokens of a timed step of a run that is done; None if unknown."""
        if self.imported is None:
            return int(self.steps.tokens[-1])
        last = self.imported.evals[-1]
        return last.tokens / last.step if last.tokens and last.step else None

    @property
    def n_tokens(self) -> int | None:
        """The tokens of all recorded steps; None if unknown."""
        return self.imported.evals[-1].tokens if self.imported else int(self.steps.tokens.sum())

    @property
    def tokens_at_evals(self) -> FloatArray:
        """The number of tokens trained on until each evaluation; shape (n_evals,)."""
        return self.tokens_at(self.evals.step)

    def tokens_at(self, step: NDArray[np.int64]) -> FloatArray:
        """Return the number of tokens trained on after each number of completed steps.

        NaN if unknown.
        """
        if self.imported:
            known = [line for line in self.imported.evals if line.step is not None]
            tokens = np.array([line.tokens for line in known], dtype=float)
            return np.interp(step, self.evals.step, tokens) if known else np.empty(0)
        n_tokens = np.concatenate(([0], np.cumsum(self.steps.tokens)))
        return n_tokens[np.minimum(step, len(self.steps))].astype(float)

    @property
    def timed_step_s(self) -> FloatArray:
        """The slowest rank's time of each timed step, all with the same tokens; shape (n_timed,).

        Only steps of the last step's number of tokens are timed, if it changes in training, and
        only steps during which no checkpoint was written. If those are fewer than half of them,
        the others count as well: the run hardly ever had another speed.
        Empty if the compiler gave up on parts of the model: the times are not those of a compiled
        model. They are those of the timing run if there is one.
        """
        if self.imported:
            return np.array(self.imported.step_s, dtype=float)
        if self.timing_run is not None:
            return self.timing_run.timed_step_s
        is_timed = ~self.steps.warmup
        is_timed &= self.steps.tokens == self.steps.tokens[-1:]
        is_undisturbed = is_timed & ~self.steps.saving
        if 2 * is_undisturbed.sum() >= is_timed.sum():
            is_timed = is_undisturbed
        if self.is_partly_compiled:
            is_timed[:] = False
        return self.steps.step_s[is_timed]

    @property
    def is_partly_compiled(self) -> bool:
        """Whether the run should have been compiled, but the compiler's limit was reached."""
        compilation = self.probes.compilation if self.probes else None
        return compilation is not None and compilation.limit_reached


def read_run(run: Run) -> RunData | Unreadable:
    """Read a whole run, or return why that is not possible."""
    try:
        if run.is_imported:
            return _read_imported(run)
        data = _read_checked(run)
    except (StoreError, OSError) as error:
        return Unreadable(name=run.run_id, why=str(error))
    return _without_nan(replace(data, timing_run=_read_timing_run(run, data.resolved.code_hash)))


def _read_timing_run(run: Run, code_hash: str | None) -> RunData | None:
    """Return the timing run of a run; None without one of the same code that can be read."""
    timing_run = run.timing_run
    if not timing_run.exists:
        return None
    try:
        data = _read_checked(timing_run)
    except (StoreError, OSError):
        return None  # the times of the run itself remain
    return data if data.status == "done" and data.resolved.code_hash == code_hash else None


def _read_imported(run: Run) -> RunData:
    imported = run.imported
    status = run.status
    lines = [line for line in imported.evals if line.step is not None]
    losses = np.array([line.val_loss for line in lines], dtype=float)  # None becomes NaN
    return RunData(
        run_id=run.run_id,
        spec=imported,
        env=None,
        probes=None,
        status=status.status,
        reason=status.reason,
        message=status.message,
        started_at=None,
        ended_at=status.ended_at,
        steps=read_steps([]),
        evals=Evals(
            step=np.array([line.step for line in lines], dtype=np.int64),
            val_loss=losses,
            bits_per_byte=np.full(len(lines), np.nan),
            train_s=np.array([line.train_s for line in lines], dtype=float),
            ema_val_loss=np.full(len(lines), np.nan),
        ),
        decoding={},
        lengths={},
        phases=(),
        log_tail=[],
    )


def _read_checked(run: Run) -> RunData:
    """Read a run.

    Raises:
        StoreError, OSError: a file is damaged, missing, or not the one that the run wrote.
    """
    data = _read(run)
    _check(data)
    if data.status == "done":
        recorded = data.measured.checksums
        present = run.checksums() if recorded else {}
        for name in sorted({*recorded, *present}):
            if name not in present:
                missing = f"states a checksum of {name}, which is missing"
                raise StoreError(f"probes.json: {missing}; {REMEDY}")
            if present[name] != recorded.get(name):
                raise StoreError(f"{name}: is not the file that the run wrote; {REMEDY}")
    return data


def _read(run: Run) -> RunData:
    status = run.status
    probes = run.probes
    decoding = probes.decoding if probes else []
    lengths = probes.lengths if probes else []
    phases = probes.phases if probes else []
    return RunData(
        run_id=run.run_id,
        spec=run.spec,
        env=run.env,
        probes=probes,
        status=status.status,
        reason=status.reason,
        message=status.message,
        started_at=status.started_at,
        steps=run.steps(),
        evals=_eval_columns(run.evals()),
        decoding={DecodeSetting(r.batch, r.context): r for r in decoding},
        lengths={record.length: record for record in lengths},
        phases=tuple(_median_phases(rank) for rank in phases),
        log_tail=run.log_tail(),
        accepted_code_hash=status.accepted_code_hash,
        ended_at=status.ended_at,
        examples=_example_values(run.examples) if probes and probes.tasks else {},
    )


def _example_values(scores: ExampleScores | None) -> dict[tuple[str, str], ExampleValues]:
    if scores is None:
        return {}
    found = {}
    for task in scores.tasks:
        digits = np.frombuffer(bytes.fromhex(task.documents), dtype=f">u{HASH_DIGITS // 2}")
        document = digits.astype(np.uint64)
        for metric, values in task.metrics.items():
            found[task.task, metric] = ExampleValues(document, np.array(values, dtype=float))
    for group in scores.groups:
        for metric in group.metrics:
            parts = [found[part, metric] for part in group.parts]
            found[group.task, metric] = ExampleValues(
                np.concatenate([part.document for part in parts]),
                np.concatenate([part.value for part in parts]),
            )
    return found


def _check(run: RunData) -> None:
    """Check that the curves are in order and that a run that is done is complete."""
    values = (
        run.evals.val_loss,
        run.evals.bits_per_byte,
        run.evals.train_s,
        run.evals.ema_val_loss,
    )
    if (np.abs(values) > MAX_NUMBER).any():
        raise StoreError(f"eval.jsonl: a value is above {MAX_NUMBER:g}")
    if (np.diff(run.evals.step) < 0).any():
        raise StoreError("eval.jsonl: the steps are not in order")
    if run.spec.run_id != run.run_id:
        raise StoreError(f"spec.json: is that of another run, {run.spec.run_id}; {REMEDY}")
    if run.status != "done":
        return
    if run.probes is None:
        raise StoreError("probes.json: the run is done, but the file is missing")
    n_steps = run.resolved.train.steps
    n_ranks = run.resolved.launch.world_size
    if not len(run.evals.step):
        raise StoreError("eval.jsonl: the run is done, but the file is missing or empty")
    if run.evals.step[-1] != n_steps:
        raise StoreError(
            f"eval.jsonl: the run is done, but its last evaluation is that after "
            f"{run.evals.step[-1]} of the {n_steps} steps of spec.json; {REMEDY}"
        )
    if not len(run.steps):
        raise StoreError("steps.rank*.jsonl: the run is done, but they are missing or empty")
    if len(run.steps) != n_steps:
        raise StoreError(
            f"steps.rank*.jsonl: the run is done, but {len(run.steps)} of the {n_steps} steps of "
            f"spec.json are recorded; {REMEDY}"
        )
    for name, n_recorded in {
        "memory": len(run.probes.memory),
        "phases": len(run.probes.phases),
    }.items():
        if n_recorded not in (0, n_ranks):
            raise StoreError(
                f"probes.json: {name} has {n_recorded} ranks, spec.json has {n_ranks}; {REMEDY}"
            )


def _eval_columns(evals: list[EvalRecord]) -> Evals:
    def column(values: list[float | None]) -> FloatArray:
        return np.array(values, dtype=float)  # None becomes NaN

    return Evals(
        step=np.array([line.step for line in evals], dtype=np.int64),
        val_loss=column([line.val_loss for line in evals]),
        bits_per_byte=column([line.bits_per_byte for line in evals]),
        train_s=column([line.train_s for line in evals]),
        ema_val_loss=column([line.ema_val_loss for line in evals]),
        last_by_corpus=evals[-1].by_corpus if evals else [],
    )


def _median_phases(rank: RankPhases) -> dict[Phase, float | None]:
    medians: dict[Phase, float | None] = {}
    for phase in PHASES:
        samples = [value for value in getattr(rank, f"{phase}_s") if value is not None]
        medians[phase] = float(np.median(samples)) if samples else None
    return medians


def _without_nan(run: RunData) -> RunData:
    """Turn a run whose last validation loss is not finite into a failed one: it has no result."""
    if run.status != "done" or np.isfinite(run.evals.val_loss[-1]):
        return run
    return replace(
        run,
        status="failed",
        reason="nan",
        message="its last validation loss is not a finite number",
    )
