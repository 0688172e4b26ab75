"""Recorded values of runs as tidy DataFrames: a row per run, step, evaluation, example of a task.

`RUN_COLUMNS`, `STEP_COLUMNS`, `EVAL_COLUMNS` and `EXAMPLE_COLUMNS` document the columns. Each
frame starts with the keys of the run: `run_id`, `entry`, a column per axis, `seed` and `data_seed`;
names and labels are categorical.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.results.run_data import ABSENT, RunData

TEXT = "string"
CATEGORY = "category"
INTEGER = "Int64"
NUMBER = "float64"
FLAG = "boolean"
LIST = "object"  # of tuples; their items are separated by blanks in a CSV file

Levels = Mapping[str, Sequence[str]]  # labels of each axis, the baseline's first


@dataclass(frozen=True)
class Column:
    """A column of a table: its name, its pandas dtype, and its meaning with the unit."""

    name: str
    dtype: str
    meaning: str


KEY_COLUMNS = [
    Column("run_id", CATEGORY, "folder of the run"),
    Column("entry", CATEGORY, "labels of the axes, joined by hyphens"),
    Column("seed", "int64", "seed of the initial parameters"),
    Column("data_seed", "int64", "seed of the data order"),
]
RUN_COLUMNS = [
    Column("status", CATEGORY, "`pending`, `running`, `done`, `failed` or `interrupted`"),
    Column("reason", TEXT, "category of the failure"),
    Column("message", TEXT, "message of the failure"),
    Column("started_at", TEXT, "start of the newest attempt, ISO 8601, UTC"),
    Column("steps_recorded", "int64", "number of steps that every rank recorded"),
    Column("val_loss", NUMBER, "final validation loss, nats per token"),
    Column("bits_per_byte", NUMBER, "final validation loss, bits per byte"),
    Column(
        "ema_val_loss",
        NUMBER,
        "final validation loss of the moving average of the parameters, nats per token",
    ),
    Column("tokens_per_s", NUMBER, "tokens per step over the median step time"),
    Column("step_s", NUMBER, "median time of the timed steps of the slowest rank, seconds"),
    Column("peak_memory_bytes", INTEGER, "peak memory of the fullest rank, bytes"),
    Column("mfu", NUMBER, "model FLOPs utilization: flops_per_token x tokens_per_s / peak"),
    Column(
        "mfu_full_attention",
        NUMBER,
        "mfu by the convention of PaLM and nanoGPT: 6 FLOPs for each parameter, and attention to "
        "all keys of the sequence, 12 n_layer n_embd seq_len",
    ),
    Column("parameters", INTEGER, "number of parameters"),
    Column(
        "flops_per_token",
        NUMBER,
        "FLOPs per token, forward and backward, counted if a formula is wrong",
    ),
    Column("host", TEXT, "host name"),
    Column("git_commit", TEXT, "commit of the code"),
]
STEP_COLUMNS = [
    Column("step", "int64", "step number, from 0"),
    Column("loss", NUMBER, "training loss, nats per token"),
    Column("step_s", NUMBER, "time of the step of the slowest rank, seconds"),
    Column("tokens", "int64", "tokens of the step over all processes"),
    Column("grad_norm", NUMBER, "global gradient norm before clipping"),
    Column("lr", NUMBER, "learning rate"),
    Column("warmup", "bool", "whether the step is recorded but not timed"),
    Column("saving", "bool", "whether a checkpoint was written in the background"),
]
EVAL_COLUMNS = [
    Column("step", "int64", "number of steps done"),
    Column("val_loss", NUMBER, "validation loss, nats per token"),
    Column("bits_per_byte", NUMBER, "validation loss, bits per byte"),
    Column("train_s", NUMBER, "training time until the evaluation, seconds"),
    Column(
        "ema_val_loss",
        NUMBER,
        "validation loss of the moving average of the parameters, nats per token",
    ),
]
EXAMPLE_COLUMNS = [
    Column("task", CATEGORY, "name of the task of lm-eval, or of a group"),
    Column("metric", CATEGORY, "name of the metric, with its filter if it has one"),
    Column("document", "uint64", "first 64 bits of the SHA-256 of the example's document"),
    Column("value", NUMBER, "value of the example"),
]
SPEED_COLUMNS = ("tokens_per_s", "step_s", "mfu", "mfu_full_attention")


def runs(data: Sequence[RunData], levels: Levels) -> pd.DataFrame:
    """Return a row per run. Results are missing unless the run is done."""
    rows = [_outcome(run) | (_results(run) if run.status == "done" else {}) for run in data]
    names = [column.name for column in RUN_COLUMNS]
    values = pd.DataFrame(rows, columns=names, dtype=object)
    values = values.astype({column.name: column.dtype for column in RUN_COLUMNS})
    keys = _keys(data, levels, np.ones(len(data), dtype=int))
    return pd.concat([pd.DataFrame(keys), values], axis="columns")


def steps(
    data: Sequence[RunData], levels: Levels, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return a row per training step of each run, with the given columns (default: all)."""
    return _concatenate(data, levels, [run.steps for run in data], STEP_COLUMNS, columns)


def evals(
    data: Sequence[RunData], levels: Levels, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return a row per evaluation of each run, with the given columns (default: all)."""
    return _concatenate(data, levels, [run.evals for run in data], EVAL_COLUMNS, columns)


def examples(data: Sequence[RunData], levels: Levels) -> pd.DataFrame:
    """Return a row per example of each task and metric that is a mean over examples."""
    owners = []
    metrics = []
    parts = []
    for run in data:
        for metric, values in run.examples.items():
            owners.append(run)
            metrics.append(metric)
            parts.append(values)
    lengths = np.array([len(values.value) for values in parts], dtype=int)
    frame = _keys(owners, levels, lengths)
    for i, name in enumerate(("task", "metric")):
        names = [metric[i] for metric in metrics]
        frame[name] = _categorical(names, list(dict.fromkeys(names)), lengths)
    no_documents = np.empty(0, dtype=np.uint64)
    frame["document"] = np.concatenate([no_documents, *(values.document for values in parts)])
    frame["value"] = np.concatenate([np.empty(0), *(values.value for values in parts)])
    return pd.DataFrame(frame, copy=False)


def _outcome(run: RunData) -> dict[str, object]:
    return {
        "status": run.status,
        "reason": run.reason,
        "message": run.message,
        "started_at": run.started_at,
        "steps_recorded": len(run.steps),
        "host": run.env.host if run.env else None,
        "git_commit": run.env.git_commit if run.env else None,
    }


def _results(run: RunData) -> dict[str, object]:
    results: dict[str, object] = {
        "val_loss": run.final_loss,
        "bits_per_byte": run.final_bits_per_byte,
        "ema_val_loss": run.final_ema_val_loss,
        "peak_memory_bytes": run.peak_memory_bytes,
        "parameters": run.parameters,
        "flops_per_token": run.flops_per_token,
    }
    if len(run.timed_step_s):
        step_s = float(np.median(run.timed_step_s))
        results["step_s"] = step_s
        if run.tokens_per_step is not None:
            tokens_per_s = run.tokens_per_step / step_s
            results["tokens_per_s"] = tokens_per_s
            peak = run.probes.peak_flops.value if run.probes else None
            if peak and run.flops_per_token is not None:
                results["mfu"] = run.flops_per_token * tokens_per_s / peak
            if peak and run.full_attention_flops_per_token is not None:
                full = run.full_attention_flops_per_token * tokens_per_s / peak
                results["mfu_full_attention"] = full
    return results


def _concatenate(
    data: Sequence[RunData],
    levels: Levels,
    parts: Sequence[object],
    documented: Sequence[Column],
    columns: Sequence[str] | None,
) -> pd.DataFrame:
    lengths = np.array([len(getattr(part, "step")) for part in parts], dtype=int)  # noqa: B009
    frame = _keys(data, levels, lengths)
    wanted = [column.name for column in documented]
    if columns is not None:
        unknown = set(columns) - set(wanted) - frame.keys()
        if unknown:
            allowed = ", ".join([*frame, *wanted])
            raise KeyError(f"unknown columns {sorted(unknown)}; allowed: {allowed}")
        wanted = [name for name in wanted if name in columns]
        frame = {name: values for name, values in frame.items() if name in columns}
    dtypes = {column.name: column.dtype for column in documented}
    for name in wanted:
        arrays = [getattr(part, name) for part in parts]
        values = np.concatenate(arrays) if arrays else np.empty(0)
        frame[name] = values.astype(dtypes[name], copy=False)
    return pd.DataFrame(frame, copy=False)


def _keys(
    data: Sequence[RunData], levels: Levels, repeats: np.ndarray
) -> dict[str, np.ndarray | pd.Categorical]:
    """Return the key columns, each run's values repeated as often as it has rows."""
    run_ids = [run.run_id for run in data]
    entries = [run.spec.entry for run in data]
    keys: dict[str, np.ndarray | pd.Categorical] = {
        "run_id": _categorical(run_ids, list(dict.fromkeys(run_ids)), repeats),
        "entry": _categorical(entries, list(dict.fromkeys(entries)), repeats),
    }
    for axis, labels in levels.items():
        values = [run.labels.get(axis, ABSENT) for run in data]
        keys[axis] = _categorical(values, labels, repeats)
    keys["seed"] = np.repeat(np.array([run.seed for run in data], dtype=np.int64), repeats)
    order_seeds = np.array([run.order_seed for run in data], dtype=np.int64)
    keys["data_seed"] = np.repeat(order_seeds, repeats)
    return keys


def _categorical(
    values: Sequence[str], categories: Sequence[str], repeats: np.ndarray
) -> pd.Categorical:
    codes = pd.Categorical(values, categories=categories).codes
    return pd.Categorical.from_codes(np.repeat(codes, repeats), categories=categories)
