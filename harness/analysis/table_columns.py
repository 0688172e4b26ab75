"""The columns of the report's tables, with the type and the meaning of each.

Most are the fields of a record. A value X with a 95 % interval has three columns: `X`, `X_low` and
`X_high`.
"""

from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from harness.results.frames import EVAL_COLUMNS, FLAG, INTEGER, LIST, NUMBER, TEXT, Column
from harness.results.records import PHASES, CollectiveTraffic, RankMemory
from harness.results.records import ladder as ladder_records
from harness.results.records.comparisons import (
    BaselineComparison,
    Component,
    CostToBaselineLoss,
    Effect,
    PooledResult,
    Ranking,
    SignificanceResult,
    VarianceComponents,
)
from harness.results.records.contexts import ContextResult
from harness.results.records.entries import (
    CorpusResult,
    Decoding,
    EntryMetrics,
    LengthLoss,
    RunOutcome,
    Spike,
    TaskScore,
)
from harness.results.records.estimates import Difference, Mean, Median, Ratio
from harness.results.records.study_summary import Equivalence, ScalingRow
from harness.results.records.tuning import (
    SettingResult,
    TunedKey,
    TuningComparison,
    TuningCost,
)

DTYPES: Mapping[object, str] = {str: TEXT, int: INTEGER, float: NUMBER, bool: FLAG, list: LIST}


def _interval(name: str, meaning: str) -> list[Column]:
    return [Column(name, NUMBER, meaning), *_bounds_columns(name)]


def _bounds_columns(name: str) -> list[Column]:
    return [
        Column(f"{name}_low", NUMBER, "lower end of its 95 % interval"),
        Column(f"{name}_high", NUMBER, "upper end of its 95 % interval"),
    ]


def _columns(record: type[BaseModel], center: str = "") -> list[Column]:
    """Return the columns of a record, as `_row` fills them; other fields have no column."""
    columns = []
    for name, field in record.model_fields.items():
        meaning = (field.description or "").replace("null", "empty")
        value_type = _value_type(field.annotation)
        if value_type in (Difference, Mean, Median, Ratio):
            columns += _interval(name, meaning)
        elif name == "ci95":
            columns += _bounds_columns(center)
        elif name.endswith("_ci95"):
            columns += _bounds_columns(name.removesuffix("_ci95"))
        elif value_type in DTYPES:
            columns.append(Column(name, DTYPES[value_type], meaning))
    return columns


def _value_type(annotation: object) -> object:
    """Return the type of a field's values, without None and constraints; `str` for literals."""
    origin = get_origin(annotation)
    if origin is Literal:
        return str
    if origin in (Annotated, Union, UnionType):
        if bool in get_args(annotation)[1:-1] or get_args(annotation)[:2] == (bool, int):
            return str  # the value of any setting
        return _value_type(get_args(annotation)[0])
    return origin or annotation


ENTRY = Column("entry", TEXT, "the entry: its variants' labels, joined by hyphens")
SEED = Column("seed", INTEGER, "seed of the run")
RANK = Column("rank", INTEGER, "rank of the process")
CAVEATS = Column("caveats", LIST, "kinds of caveats of the entry, see `caveats` in summary.json")
METRIC = Column(
    "quantity", TEXT, "`val_loss` (nats per token), `tokens_per_s` or `peak_memory` (logarithms)"
)

LADDER: Mapping[str, type[BaseModel]] = {
    "points": ladder_records.LadderPoint,
    "fits": ladder_records.LadderFit,
    "speedups": ladder_records.LadderSpeedup,
    "trends": ladder_records.LadderTrend,
    "projections": ladder_records.LadderProjection,
    "curves": ladder_records.LadderCurvePoint,
}  # the lists of a ladder, each a table `ladder_<name>`

COLUMNS: Mapping[str, list[Column]] = {
    "entries": [*_columns(EntryMetrics), CAVEATS],
    "runs": [ENTRY, *_columns(RunOutcome)],
    "comparisons": [*_columns(BaselineComparison), CAVEATS],
    "verdicts": [
        METRIC,
        ENTRY,
        Column("n_seeds", INTEGER, "number of paired seeds"),
        *_columns(SignificanceResult),
        Column("not_comparable", TEXT, "why the losses are not compared"),
        CAVEATS,
    ],
    "pooled": [
        METRIC,
        Column("asked", TEXT, "labels of the asked axes that differ from the baseline's"),
        Column("n_contexts", INTEGER, "number of contexts that are pooled"),
        Column("n_seeds", INTEGER, "number of seeds that all contexts have done"),
        *(column for column in _columns(PooledResult) if column.name != "asked"),
        Column("verdicts", LIST, "verdict in each context, as CONTEXT=VERDICT"),
    ],
    "effects": [
        METRIC,
        Column(
            "effect",
            TEXT,
            "`main` effect of one axis, `interaction` of two, or `context`: of context axes only",
        ),
        Column("levels", LIST, "levels compared with the baseline's, as AXIS=LABEL"),
        *_columns(Effect, center="estimate"),
    ],
    "rankings": [
        *_columns(Ranking),
        Column("budget_unit", TEXT, "unit of the amount"),
        Column("rank", INTEGER, "1 has the lowest loss"),
        ENTRY,
        Column("val_loss", NUMBER, "validation loss at the budget, nats per token"),
        CAVEATS,
    ],
    "savings": [*_columns(CostToBaselineLoss), CAVEATS],
    "variance": [
        *_columns(VarianceComponents),
        Column("source", TEXT, "`init`ial values, `data` order, or the `rest`"),
        *_columns(Component, center="sd"),
    ],
    "equivalence": _columns(Equivalence),
    "memory": [ENTRY, SEED, RANK, *_columns(RankMemory)],
    "val_curves": [
        ENTRY,
        SEED,
        *EVAL_COLUMNS,
        Column("status", TEXT, "status of the run"),
    ],
    "decoding": [ENTRY, *_columns(Decoding)],
    "lengths": [ENTRY, *_columns(LengthLoss)],
    "tasks": [ENTRY, *_columns(TaskScore)],
    "corpora": [ENTRY, *_columns(CorpusResult)],
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
        Column("data_s", NUMBER, "seconds of other_s that the rank waits for tokens"),
    ],
    "traffic": [
        ENTRY,
        SEED,
        RANK,
        Column("collective", TEXT, "name of the collective"),
        *_columns(CollectiveTraffic),
        Column("predicted_total_bytes", NUMBER, "predicted bytes of all collectives of a step"),
    ],
    "scaling": _columns(ScalingRow),
    "context_comparison": _columns(ContextResult),
    **{f"ladder_{name}": _columns(record) for name, record in LADDER.items()},
    "spikes": _columns(Spike),
    "tuning": _columns(SettingResult),
    "tuning_choices": _columns(TunedKey),
    "tuning_costs": _columns(TuningCost),
    "tuning_verdicts": _columns(TuningComparison),
}
