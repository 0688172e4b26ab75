"""The tables of the report as DataFrames, one for each file of `tables/`, unrounded.

`COLUMNS` documents the tables. A value X with a 95 % interval has three columns: `X`, `X_low` and
`X_high`. A missing value is missing (NaN or `<NA>`) in a frame and empty in a CSV file.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from harness.analysis.budgets import BudgetKind
from harness.analysis.eval_lengths import positions
from harness.analysis.intervals import Mean, Median, Ratio
from harness.analysis.metrics import CATEGORIES
from harness.analysis.significance import MAX_SEEDS
from harness.analysis.summary import Summary
from harness.results.frames import FLAG, INTEGER, LIST, NUMBER, TEXT, Column
from harness.results.records import PHASES
from harness.results.run_data import RunData

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = Mapping[str, object]
# some rows of a table: its columns that are constant in them, and the others, each (n_rows,)
Block = tuple[Mapping[str, object], Mapping[str, np.ndarray]]


def _interval(name: str, meaning: str) -> list[Column]:
    return [
        Column(name, NUMBER, meaning),
        Column(f"{name}_low", NUMBER, "lower end of its 95 % interval"),
        Column(f"{name}_high", NUMBER, "upper end of its 95 % interval"),
    ]


ENTRY = Column("entry", TEXT, "the entry: its variants' labels, joined by hyphens")
AGAINST = Column("against", TEXT, "the entry that it is compared with")
SEED = Column("seed", INTEGER, "seed of the run")
SEEDS = Column("seeds", LIST, "seeds that the row rests on")
RANK = Column("rank", INTEGER, "rank of the process")
STATUS = Column("status", TEXT, "status of the run")
METRIC = Column(
    "quantity", TEXT, "`val_loss` (nats per token), `tokens_per_s` or `peak_memory` (logarithms)"
)
VERDICT = Column(
    "verdict", TEXT, "`better`, `worse`, `equivalent` or `unresolved`; empty for a single seed"
)
REASON = Column("reason", TEXT, "why the seeds that are not in `seeds` have no value")

COLUMNS: Mapping[str, list[Column]] = {
    "entries": [
        ENTRY,
        Column("seeds", LIST, "seeds of all runs"),
        Column("seeds_done", LIST, "seeds of the runs that are done"),
        Column("status", TEXT, "status of all runs, or `mixed` (see runs.csv)"),
        Column("equivalence", TEXT, "worst verdict of its seeds in equivalence.csv"),
        *_interval("val_loss", "final validation loss, nats per token: mean over seeds"),
        *_interval("bits_per_byte", "final validation loss, bits per byte: mean over seeds"),
        *_interval("tokens_per_s", "tokens per step over the median step time"),
        *_interval("step_s", "median time of the timed steps of the slowest rank, seconds"),
        Column("peak_memory_bytes", INTEGER, "peak memory of the fullest rank, bytes"),
        Column("parameters", INTEGER, "number of parameters"),
        Column("flops_per_token", NUMBER, "FLOPs per token, forward and backward"),
        Column("peak_flops", NUMBER, "peak of all devices of a run, FLOP/s; empty if unknown"),
        Column("mfu", NUMBER, "model FLOPs utilization: flops_per_token x tokens_per_s / peak"),
    ],
    "runs": [
        ENTRY,
        Column("run_id", TEXT, "folder of the run"),
        SEED,
        Column("data_seed", INTEGER, "seed of the data order"),
        STATUS,
        Column("reason", TEXT, "category of the failure"),
        Column("message", TEXT, "message of the failure"),
        Column("steps_recorded", INTEGER, "steps that every rank recorded"),
    ],
    "comparisons": [
        ENTRY,
        AGAINST,
        Column("differs", LIST, "axes on which the two entries differ"),
        Column("seeds", LIST, "seeds that both have done"),
        Column("seeds_unpaired", INTEGER, "number of seeds that only one of the two has done"),
        *_interval("val_loss_difference", "mean paired difference of final loss, nats per token"),
        Column("excludes_zero", FLAG, "whether that interval excludes 0"),
        *_interval("tokens_per_s_ratio", "throughput over that of the baseline"),
        Column("speed_diverges", FLAG, "whether one of the two fails the equivalence check"),
        Column("peak_memory_ratio", NUMBER, "peak memory over that of the baseline"),
    ],
    "verdicts": [
        METRIC,
        ENTRY,
        VERDICT,
        *_interval("difference", "mean paired difference, variant minus baseline"),
        Column("n_seeds", INTEGER, "number of paired seeds"),
        Column("p", NUMBER, "p-value of the paired t test"),
        Column("p_holm", NUMBER, "p adjusted for the family by Holm (1979)"),
        Column("p_bh", NUMBER, "p adjusted for the family by Benjamini and Hochberg (1995)"),
        Column("p_equivalent_holm", NUMBER, "Holm-adjusted p of the equivalence test (TOST)"),
        Column("effect_size", NUMBER, "Hedges' g of the paired differences"),
        Column("seeds_to_resolve", INTEGER, f"seeds for 80 % power; empty beyond {MAX_SEEDS:,}"),
    ],
    "effects": [
        METRIC,
        Column("effect", TEXT, "`main` effect of one axis, or `interaction` of two"),
        Column("levels", LIST, "levels compared with the baseline's, as AXIS=LABEL"),
        VERDICT,
        Column("estimate", NUMBER, "estimated effect, averaged over the other axes"),
        Column("se", NUMBER, "standard error of the estimate"),
        Column("estimate_low", NUMBER, "lower end of its 95 % interval"),
        Column("estimate_high", NUMBER, "upper end of its 95 % interval"),
        Column("p", NUMBER, "p-value of the t test"),
        Column("p_holm", NUMBER, "p adjusted for all main effects, or all interactions"),
    ],
    "rankings": [
        Column("budget_kind", TEXT, "equal quantity: `tokens`, `flops`, `train_s`, `parameters`"),
        Column("budget", NUMBER, "its amount: the smallest total of any entry"),
        Column("budget_unit", TEXT, "unit of the amount"),
        Column("rank", INTEGER, "1 has the lowest loss"),
        ENTRY,
        *_interval("val_loss", "validation loss at the budget, nats per token"),
    ],
    "savings": [
        ENTRY,
        AGAINST,
        Column("seeds", LIST, "seeds that reach the baseline's final loss"),
        Column("not_reached", LIST, "seeds that do not"),
        *_interval("tokens_ratio", "the baseline's tokens over those the entry needs"),
        *_interval("train_time_ratio", "the baseline's training time over that the entry needs"),
    ],
    "variance": [
        Column("quantity", TEXT, "`val_loss`, or `val_loss_difference` from the baseline"),
        Column("source", TEXT, "`init`ial values, `data` order, or the `rest`"),
        *_interval("sd", "standard deviation, nats per token"),
        Column("fraction", NUMBER, "fraction of the variance"),
        Column("entries", LIST, "entries that are pooled"),
        Column("seeds", LIST, "seeds that are crossed"),
    ],
    "equivalence": [
        ENTRY,
        Column("against", TEXT, "the reference: one process, else the baseline's parallelism"),
        SEED,
        Column("verdict", TEXT, "`bitwise`, `within tolerance`, `DIVERGES` or `not checked`"),
        Column("reason", TEXT, "why the run diverges or was not checked"),
        Column("bitwise", FLAG, "whether all training losses are identical"),
        Column("initial_hash_equal", FLAG, "whether the initial parameters are identical"),
        Column("ranks_agree", FLAG, "whether all ranks end with the same parameters"),
        Column("max_rel_loss_dev_first5", NUMBER, "largest relative loss deviation, 5 steps"),
        Column("max_rel_grad_norm_dev_first5", NUMBER, "the same of the gradient norm"),
        Column("rel_loss_tolerance", NUMBER, "tolerance of the loss deviation"),
        Column("rel_grad_norm_tolerance", NUMBER, "tolerance of the gradient norm deviation"),
        Column("abs_loss_dev_first", NUMBER, "loss deviation of the first step, nats per token"),
        Column("abs_loss_dev_last", NUMBER, "loss deviation of the last step, nats per token"),
        Column("max_abs_loss_dev", NUMBER, "largest loss deviation, nats per token"),
        Column("abs_val_loss_dev", NUMBER, "deviation of final validation loss, nats per token"),
    ],
    "memory": [
        ENTRY,
        SEED,
        RANK,
        *(Column(name, INTEGER, f"bytes at the peak: {name}") for name in CATEGORIES),
        Column("peak", INTEGER, "peak of all categories, bytes"),
        Column("resident_peak", INTEGER, "peak resident memory of the whole process, bytes"),
    ],
    "val_curves": [
        ENTRY,
        SEED,
        Column("step", INTEGER, "step of the evaluation"),
        Column("val_loss", NUMBER, "validation loss, nats per token"),
        Column("bits_per_byte", NUMBER, "validation loss, bits per byte"),
        Column("train_s", NUMBER, "training time until the evaluation, seconds"),
        STATUS,
    ],
    "decoding": [
        ENTRY,
        Column("batch", INTEGER, "sequences that are decoded together"),
        Column("context", INTEGER, "positions in the KV cache"),
        SEEDS,
        *_interval("prefill_tokens_per_s", "throughput of one pass over the context"),
        *_interval("decode_step_s", "time of one token for every sequence, seconds"),
        *_interval("decode_tokens_per_s", "batch over decode_step_s"),
        *_interval("decode_tokens_per_s_ratio", "the same over that of the baseline"),
        Column("cache_bytes", INTEGER, "size of the KV cache, bytes"),
        REASON,
    ],
    "lengths": [
        ENTRY,
        Column("length", INTEGER, "sequence length of the evaluation, tokens"),
        SEEDS,
        *_interval("val_loss", "validation loss, nats per token"),
        *_interval("val_loss_difference", "mean paired difference from the baseline"),
        Column("windows", INTEGER, "number of sequences evaluated"),
        REASON,
    ],
    "loss_by_position": [
        ENTRY,
        SEED,
        Column("length", INTEGER, "sequence length of the evaluation, tokens"),
        Column("first_position", INTEGER, "first position of the bin, counted from 1"),
        Column("last_position", INTEGER, "last position of the bin"),
        Column("loss", NUMBER, "mean loss in the bin, nats per token"),
    ],
    "phases": [
        ENTRY,
        SEED,
        RANK,
        Column("sample", INTEGER, "index of the sampled step"),
        *(Column(f"{phase}_s", NUMBER, f"seconds of the step: {phase}") for phase in PHASES),
    ],
    "traffic": [
        ENTRY,
        SEED,
        RANK,
        Column("collective", TEXT, "name of the collective"),
        Column("calls", INTEGER, "calls in one step"),
        Column("payload_bytes", INTEGER, "bytes of the buffers of one step"),
        Column("sent_bytes", NUMBER, "bytes sent by a bandwidth-optimal algorithm"),
        Column("predicted_total_bytes", NUMBER, "predicted bytes of all collectives of a step"),
    ],
    "scaling": [
        ENTRY,
        Column("group", TEXT, "common labels of the compared entries"),
        Column("world_size", INTEGER, "number of processes"),
        *_interval("tokens_per_s", "throughput"),
        AGAINST,
        Column("against_world_size", INTEGER, "number of processes of that entry"),
        *_interval("speedup", "throughput over that of `against`"),
        Column("efficiency", NUMBER, "speedup over the ratio of the numbers of processes"),
    ],
}

OPTIONAL = ("variance", "decoding", "phases", "traffic", "scaling", "lengths", "loss_by_position")
BUDGET_UNITS: Mapping[BudgetKind, str] = {
    "tokens": "tokens",
    "flops": "FLOPs",
    "train_s": "s",
    "parameters": "parameters",
}


def build_tables(summary: Summary) -> dict[str, pd.DataFrame]:
    """Return all tables by name; those of optional probes only if the study has their results."""
    rows: dict[str, Iterable[Row]] = {
        "entries": _entries(summary),
        "runs": _runs(summary),
        "comparisons": map(_row, summary.comparisons),
        "verdicts": _verdicts(summary),
        "effects": _effects(summary),
        "rankings": _rankings(summary),
        "savings": map(_row, summary.savings),
        "variance": _variance(summary),
        "equivalence": map(_row, summary.equivalence),
        "memory": _memory(summary),
        "decoding": _by_entry(summary.decoding),
        "phases": _phases(summary),
        "traffic": _traffic(summary),
        "scaling": map(_row, summary.scaling),
        "lengths": _by_entry(summary.lengths),
    }
    axes = [Column(axis, TEXT, f"label on the axis {axis}") for axis in summary.study.levels]
    columns = {**COLUMNS, "entries": [ENTRY, *axes, *COLUMNS["entries"][1:]]}
    tables = {name: _frame(columns[name], found) for name, found in rows.items()}
    tables["val_curves"] = _val_curves(summary)
    tables["loss_by_position"] = _loss_by_position(summary)
    counted = any(summary.traffic.values())
    return {
        name: table
        for name, table in tables.items()
        if name not in OPTIONAL or len(table) or (name == "traffic" and counted)
    }


def to_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV: all digits, lower-case booleans, lists joined by blanks."""
    cells = {name: _cells(column) for name, column in table.items()}
    return str(pd.DataFrame(cells).to_csv(index=False, lineterminator="\n"))


def _cells(column: pd.Series) -> pd.Series:
    if column.dtype == FLAG:
        return column.map({True: "true", False: "false"})
    if column.dtype == LIST:
        return column.map(lambda items: " ".join(map(str, items)))
    if column.dtype == NUMBER:
        return column.replace([np.inf, -np.inf], np.nan)
    return column


def _frame(columns: list[Column], rows: Iterable[Row]) -> pd.DataFrame:
    names = [column.name for column in columns]
    frame = pd.DataFrame(list(rows), columns=names, dtype=object)
    return frame.astype({column.name: column.dtype for column in columns})


def _stack(columns: list[Column], blocks: list[Block]) -> pd.DataFrame:
    """Return the rows of all blocks, built column by column: such tables have millions of rows."""
    if not blocks:
        return _frame(columns, [])
    n_rows = [len(next(iter(arrays.values()))) for _, arrays in blocks]
    frame = {}
    for column in columns:
        name = column.name
        if name in blocks[0][1]:
            values = np.concatenate([arrays[name] for _, arrays in blocks])
        else:
            constants = [constants[name] for constants, _ in blocks]
            values = np.repeat(np.array(constants, dtype=object), n_rows)
        frame[name] = pd.Series(values).astype(column.dtype)
    return pd.DataFrame(frame)


def _row(record: "DataclassInstance") -> dict[str, object]:
    """Return a record as columns.

    A field X that is an estimate gives `X`, `X_low` and `X_high`, a field `X_ci95` gives `X_low`
    and `X_high`, and a list becomes a tuple.
    """
    row: dict[str, object] = {}
    for field in fields(record):
        name = field.name
        value = getattr(record, name)
        if isinstance(value, Mean | Median | Ratio):
            row[name] = _center(value)
            row |= _bounds(name, value.ci95)
        elif name == "ci95" or name.endswith("_ci95"):
            row |= _bounds(name.removesuffix("ci95").removesuffix("_"), value)
        else:
            row[name] = tuple(value) if isinstance(value, list) else value
    return row


def _center(estimate: Mean | Median | Ratio) -> float:
    if isinstance(estimate, Mean):
        return estimate.mean
    return estimate.median if isinstance(estimate, Median) else estimate.ratio


def _bounds(name: str, bounds: tuple[float, float] | None) -> Row:
    low, high = bounds or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _entries(summary: Summary) -> Iterator[Row]:
    for result in summary.results.values():
        status = result.status if isinstance(result.status, str) else "mixed"
        yield {**_row(result), **result.axes, "status": status}


def _by_entry(records: Mapping[str, Iterable["DataclassInstance"]]) -> Iterator[Row]:
    for entry, found in records.items():
        for record in found:
            yield {"entry": entry, **_row(record)}


def _runs(summary: Summary) -> Iterator[Row]:
    for entry in summary.study.entries:
        for run in (*entry.runs, *entry.crossed):
            yield {
                "entry": entry.label,
                "run_id": run.run_id,
                "seed": run.seed,
                "data_seed": run.order_seed,
                "status": run.status,
                "reason": run.reason,
                "message": run.message,
                "steps_recorded": len(run.steps),
            }


def _verdicts(summary: Summary) -> Iterator[Row]:
    for quantity, tests in summary.metric_tests.items():
        for entry, test in tests.entries.items():
            n_seeds = test.difference.n
            yield {"quantity": quantity, "entry": entry, **_row(test), "n_seeds": n_seeds}


def _effects(summary: Summary) -> Iterator[Row]:
    for quantity, tests in summary.metric_tests.items():
        for kind, effects in (("main", tests.main), ("interaction", tests.interactions)):
            for tested in effects:
                effect = tested.effect
                yield {
                    "quantity": quantity,
                    "effect": kind,
                    "levels": tuple(f"{axis}={label}" for axis, label in effect.levels.items()),
                    "verdict": tested.verdict,
                    "estimate": effect.estimate,
                    "se": effect.se,
                    **_bounds("estimate", effect.ci95),
                    "p": effect.p,
                    "p_holm": tested.p_holm,
                }


def _rankings(summary: Summary) -> Iterator[Row]:
    for ranking in summary.rankings:
        for rank, (entry, loss) in enumerate(ranking.val_loss.items(), start=1):
            yield {
                "budget_kind": ranking.budget_kind,
                "budget": ranking.budget,
                "budget_unit": BUDGET_UNITS[ranking.budget_kind],
                "rank": rank,
                "entry": entry,
                "val_loss": loss.mean,
                **_bounds("val_loss", loss.ci95),
            }


def _variance(summary: Summary) -> Iterator[Row]:
    for components in summary.variance:
        sources = (("init", components.init), ("data", components.data), ("rest", components.rest))
        for source, component in sources:
            yield {
                "quantity": components.quantity,
                "source": source,
                "sd": component.sd,
                **_bounds("sd", component.ci95),
                "fraction": component.fraction,
                "entries": tuple(components.entries),
                "seeds": tuple(components.seeds),
            }


def _done(summary: Summary) -> Iterator[tuple[str, RunData]]:
    """Return the label of the entry and the run, for each run that is done."""
    for entry in summary.study.entries:
        for run in entry.done:
            yield entry.label, run


def _memory(summary: Summary) -> Iterator[Row]:
    for entry, run in _done(summary):
        for rank, memory in enumerate(run.measured.memory):
            yield {"entry": entry, "seed": run.seed, "rank": rank, **dict(memory)}


def _phases(summary: Summary) -> Iterator[Row]:
    for entry, run in _done(summary):
        if entry in summary.diverging:
            continue
        for rank, times in enumerate(run.measured.phases):
            columns = dict(times)
            for sample, seconds in enumerate(zip(*columns.values(), strict=True)):
                yield {
                    "entry": entry,
                    "seed": run.seed,
                    "rank": rank,
                    "sample": sample,
                    **dict(zip(columns, seconds, strict=True)),
                }


def _traffic(summary: Summary) -> Iterator[Row]:
    for entry, run in _done(summary):
        for rank, collectives in enumerate(run.measured.traffic):
            for collective, counts in collectives.items():
                yield {
                    "entry": entry,
                    "seed": run.seed,
                    "rank": rank,
                    "collective": collective,
                    **dict(counts),
                    "predicted_total_bytes": run.measured.predicted_bytes_sent,
                }


def _loss_by_position(summary: Summary) -> pd.DataFrame:
    blocks: list[Block] = []
    for entry, run in _done(summary):
        for length, losses in sorted(run.lengths.items()):
            first, last = positions(length, len(losses.by_position))
            constants = {"entry": entry, "seed": run.seed, "length": length}
            arrays = {
                "first_position": first,
                "last_position": last,
                "loss": losses.by_position,
            }
            blocks.append((constants, arrays))
    return _stack(COLUMNS["loss_by_position"], blocks)


def _val_curves(summary: Summary) -> pd.DataFrame:
    blocks: list[Block] = []
    for entry in summary.study.entries:
        for run in entry.runs:
            constants = {"entry": entry.label, "seed": run.seed, "status": run.status}
            blocks.append((constants, vars(run.evals)))
    return _stack(COLUMNS["val_curves"], blocks)
