"""The tables of the report as DataFrames, one for each file of `tables/`, unrounded.

`table_columns.COLUMNS` documents them. A missing value is missing (NaN or `<NA>`) in a frame and
empty in a CSV file.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from pydantic import BaseModel

from harness.analysis.caveats import kinds_by_entry
from harness.analysis.eval_lengths import positions
from harness.analysis.summary import Summary
from harness.analysis.table_columns import CAVEATS, COLUMNS, ENTRY, LADDER
from harness.results.frames import FLAG, LIST, NUMBER, TEXT, Column
from harness.results.records.caveats import CaveatKind
from harness.results.records.comparisons import BudgetKind
from harness.results.records.estimates import Bounds, Mean, Median, Ratio
from harness.results.records.tuning import TuningResults
from harness.results.run_data import RunData

Row = Mapping[str, object]
# some rows of a table: its columns that are constant in them, and the others, each (n_rows,)
Block = tuple[Mapping[str, object], Mapping[str, np.ndarray]]

OPTIONAL = (
    "pooled",
    "variance",
    "decoding",
    "tasks",
    "phases",
    "traffic",
    "scaling",
    "context_comparison",
    "lengths",
    "corpora",
    "loss_by_position",
    *(f"ladder_{name}" for name in LADDER),
    "tuning",
    "tuning_choices",
    "tuning_costs",
    "tuning_verdicts",
)
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
        "runs": _nested(summary, "runs"),
        "comparisons": map(_row, summary.comparisons),
        "verdicts": _verdicts(summary),
        "effects": _effects(summary),
        "pooled": _pooled(summary),
        "rankings": _rankings(summary),
        "savings": map(_row, summary.savings),
        "variance": _variance(summary),
        "equivalence": map(_row, summary.equivalence),
        "memory": _memory(summary),
        "decoding": _nested(summary, "decoding"),
        "phases": _phases(summary),
        "traffic": _traffic(summary),
        "scaling": map(_row, summary.scaling),
        "context_comparison": map(_row, summary.compared_contexts),
        **_ladder(summary),
        "spikes": map(_row, summary.spikes),
        "lengths": _nested(summary, "lengths"),
        "tasks": _nested(summary, "tasks"),
        "corpora": _nested(summary, "corpora"),
        **_tuning(summary.tuning),
    }
    axes = [Column(axis, TEXT, f"label on the axis {axis}") for axis in summary.study.levels]
    columns = {
        **COLUMNS,
        "entries": [ENTRY, *axes, *COLUMNS["entries"][1:]],
        "tuning": [*COLUMNS["tuning"], *_tuned_columns(summary.tuning)],
    }
    kinds = kinds_by_entry(summary.caveats)
    tables = {
        name: _frame(
            columns[name], _with_caveats(found, kinds) if CAVEATS in columns[name] else found
        )
        for name, found in rows.items()
    }
    tables["val_curves"] = _val_curves(summary)
    tables["loss_by_position"] = _loss_by_position(summary)
    counted = any(result.traffic for result in summary.results.values())
    return {
        name: table
        for name, table in tables.items()
        if name not in OPTIONAL or len(table) or (name == "traffic" and counted)
    }


def _with_caveats(rows: Iterable[Row], kinds: Mapping[str, Sequence[CaveatKind]]) -> Iterator[Row]:
    for row in rows:
        yield {**row, CAVEATS.name: tuple(kinds.get(str(row["entry"]), ()))}


def to_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV: all digits, lower-case booleans, lists joined by blanks."""
    cells = {name: _cells(column) for name, column in table.items()}
    return str(pd.DataFrame(cells).to_csv(index=False, lineterminator="\n"))


def _cells(column: pd.Series) -> pd.Series:
    if column.dtype == FLAG:
        return column.map({True: "true", False: "false"})
    if column.dtype == LIST:
        return column.map(lambda items: " ".join(map(str, items)), na_action="ignore")
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


def _row(record: BaseModel, center: str = "") -> dict[str, object]:
    """Return a record as columns.

    A field X that is an estimate gives `X`, `X_low` and `X_high`, a field `X_ci95` gives `X_low`
    and `X_high`, and a list becomes a tuple. A field `ci95` is the interval of the field `center`.
    """
    row: dict[str, object] = {}
    for name, value in record:
        if isinstance(value, Mean | Median | Ratio):
            row[name] = _center(value)
            row |= _bounds(name, value.ci95)
        elif name == "ci95":
            row |= _bounds(center, value)
        elif name.endswith("_ci95"):
            row |= _bounds(name.removesuffix("_ci95"), value)
        else:
            row[name] = tuple(value) if isinstance(value, list) else value
    return row


def _center(estimate: Mean | Median | Ratio) -> float:
    if isinstance(estimate, Mean):
        return estimate.mean
    return estimate.median if isinstance(estimate, Median) else estimate.ratio


def _bounds(name: str, bounds: Bounds | None) -> Row:
    low, high = bounds or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _entries(summary: Summary) -> Iterator[Row]:
    for result in summary.results.values():
        status = result.status if isinstance(result.status, str) else "mixed"
        yield {**_row(result), **result.axes, "status": status}


def _ladder(summary: Summary) -> dict[str, Iterable[Row]]:
    """Return the rows of each list of the ladder."""
    return {
        f"ladder_{name}": map(_row, getattr(summary.ladder, name) if summary.ladder else ())
        for name in LADDER
    }


def _nested(summary: Summary, name: str) -> Iterator[Row]:
    """Return the rows of a list that each entry has."""
    for result in summary.results.values():
        for record in getattr(result, name):
            yield {"entry": result.entry, **_row(record)}


def _verdicts(summary: Summary) -> Iterator[Row]:
    for quantity, tests in summary.metric_tests.items():
        for entry, test in tests.entries.items():
            n_seeds = test.difference.n
            yield {"quantity": quantity, "entry": entry, **_row(test), "n_seeds": n_seeds}
        for row in summary.comparisons if quantity == "val_loss" else ():
            if row.not_comparable:
                yield {
                    "quantity": quantity,
                    "entry": row.entry,
                    "n_seeds": len(row.seeds),
                    "lost_seeds": (),
                    "not_comparable": row.not_comparable,
                }


def _pooled(summary: Summary) -> Iterator[Row]:
    for quantity, tests in summary.metric_tests.items():
        for result in tests.pooled:
            verdicts = result.verdicts.items()
            yield {
                **_row(result),
                "quantity": quantity,
                "n_contexts": len(result.contexts),
                "n_seeds": len(result.seeds),
                "verdicts": tuple(f"{context}={verdict}" for context, verdict in verdicts),
            }


def _effects(summary: Summary) -> Iterator[Row]:
    for quantity, tests in summary.metric_tests.items():
        kinds = (
            ("main", tests.main_effects),
            ("interaction", tests.interactions),
            ("context", tests.context_effects),
        )
        for kind, effects in kinds:
            for effect in effects:
                yield {
                    **_row(effect, center="estimate"),
                    "quantity": quantity,
                    "effect": kind,
                    "levels": tuple(f"{axis}={label}" for axis, label in effect.levels.items()),
                }


def _rankings(summary: Summary) -> Iterator[Row]:
    for ranking in summary.rankings:
        for rank, (entry, loss) in enumerate(ranking.val_loss.items(), start=1):
            yield {
                **_row(ranking),
                "budget_unit": BUDGET_UNITS[ranking.budget_kind],
                "rank": rank,
                "entry": entry,
                "val_loss": loss.mean,
            }


def _variance(summary: Summary) -> Iterator[Row]:
    for components in summary.variance:
        sources = (("init", components.init), ("data", components.data), ("rest", components.rest))
        for source, component in sources:
            yield {
                **_row(components),
                "source": source,
                **_row(component, center="sd"),
            }


def _tuning(tuning: TuningResults | None) -> dict[str, Iterable[Row]]:
    if tuning is None:
        return {"tuning": [], "tuning_choices": [], "tuning_costs": [], "tuning_verdicts": []}
    return {
        "tuning": ({**_row(trial), **trial.settings} for trial in tuning.trials),
        "tuning_choices": map(_row, tuning.keys),
        "tuning_costs": map(_row, tuning.costs),
        "tuning_verdicts": map(_row, tuning.comparisons),
    }


def _tuned_columns(tuning: TuningResults | None) -> Iterator[Column]:
    """Yield a column for each tuned key, of numbers if all of its values are."""
    if tuning is None:
        return
    for key in tuning.settings.axes:
        values = [trial.settings[key] for trial in tuning.trials]
        is_text = any(isinstance(value, str | bool) for value in values)
        yield Column(key, TEXT if is_text else NUMBER, "value of this setting")


def _done(summary: Summary) -> Iterator[tuple[str, RunData]]:
    """Return the label of the entry and the run, for each run that is done."""
    for entry in summary.study.entries:
        for run in entry.done:
            yield entry.label, run


def _probed(summary: Summary) -> Iterator[tuple[str, RunData]]:
    """Return the same without imported runs, which have no probes."""
    for entry, run in _done(summary):
        if run.probes is not None:
            yield entry, run


def _memory(summary: Summary) -> Iterator[Row]:
    for entry, run in _done(summary):
        for rank, memory in enumerate(run.memory):
            yield {"entry": entry, "seed": run.seed, "rank": rank, **dict(memory)}


def _phases(summary: Summary) -> Iterator[Row]:
    for entry, run in _probed(summary):
        if entry in summary.diverging:
            continue
        for rank, times in enumerate(run.measured.phases):
            columns = dict(times)
            columns["data_s"] = times.data_s or [None] * len(times.other_s)
            for sample, seconds in enumerate(zip(*columns.values(), strict=True)):
                yield {
                    "entry": entry,
                    "seed": run.seed,
                    "rank": rank,
                    "sample": sample,
                    **dict(zip(columns, seconds, strict=True)),
                }


def _traffic(summary: Summary) -> Iterator[Row]:
    for entry, run in _probed(summary):
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
            first, last = positions(length, len(losses.loss_by_position))
            constants = {"entry": entry, "seed": run.seed, "length": length}
            arrays = {
                "first_position": first,
                "last_position": last,
                "loss": np.array(losses.loss_by_position),
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
