"""The public Python API: the results of one study as pandas DataFrames.

The examples below run as tests, in a folder with the results of a study `tiny`.

>>> import harness
>>> study = harness.load("results", study="tiny")
>>> study
StudyFrames('tiny': 18 entries, 54 runs)

The final loss of each entry and of each run:

>>> study.entries[["entry", "val_loss", "val_loss_low", "val_loss_high"]].shape
(18, 4)
>>> study.runs.groupby("attention", observed=True)["val_loss"].mean().idxmin()
'mha'

Paired differences from the baseline, with their verdicts:

>>> losses = study.verdicts.query("quantity == 'val_loss'")
>>> losses[["entry", "difference", "p_adjusted", "verdict"]].shape
(7, 4)
"""

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import pandas as pd

from harness.analysis import dataset, equivalence, settings, stability
from harness.analysis.dataset import StudyResults
from harness.analysis.metrics import DIVERGES
from harness.analysis.summary import Summary, summarize
from harness.analysis.table_columns import COLUMNS
from harness.errors import UserError, choices
from harness.results import frames
from harness.results.frames import Column
from harness.results.records import now
from harness.results.records.entries import Spike
from harness.results.records.tuning import TUNING
from harness.results.run_data import RunData
from harness.results.store import Store

ADDED_RUN_COLUMNS = [
    Column("equivalence", "string", "verdict of the entry's equivalence check"),
    Column("n_loss_spikes", "int64", "number of loss spikes"),
    Column("n_grad_norm_outliers", "int64", "number of gradient norm outliers"),
    Column("max_grad_norm", "float64", "largest gradient norm before clipping"),
]


def has_recorded(run: RunData) -> bool:
    """Return whether a run has recorded a step, or is imported."""
    return run.imported is not None or len(run.steps) > 0


class _Table:
    """A table of the report, by the name of the attribute."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, study: "StudyFrames", owner: type) -> pd.DataFrame:
        return study.table(self._name)


class StudyFrames:
    """The results of one study as DataFrames, each built at its first use.

    `runs`, `steps`, `evals` and `examples` hold the recorded values; the others are the tables of
    the report, with the columns of the CSV files of the same names. `columns` documents each of
    them. Every frame's `attrs` hold the study's name, its settings and its baseline.

    Examples:
        >>> study = harness.load("results", study="tiny")
        >>> study.runs.attrs["baseline"]["attention"]
        'mha'
        >>> study.columns("steps").loc["step_s", "meaning"]
        'time of the step of the slowest rank, seconds'
    """

    def __init__(self, study: StudyResults) -> None:
        self._study = study

    def __repr__(self) -> str:
        n_entries = len(self._study.entries)
        return f"StudyFrames('{self.name}': {n_entries} entries, {len(self._study.runs)} runs)"

    @property
    def name(self) -> str:
        """The name of the study."""
        return self._study.name

    @property
    def settings(self) -> dict[str, object]:
        """The settings that all entries share, `model`, `data` and `train`, and those `varied`.

        `varied` has the value of each other setting by the label of the axis that sets it.
        """
        varied = settings.varied(self._study)
        found = settings.shared(self._study, varied)
        return {**found, "varied": varied} if varied else found

    @property
    def axes(self) -> dict[str, list[str]]:
        """The labels of each axis, the baseline's first."""
        return {axis: list(labels) for axis, labels in self._study.levels.items()}

    @property
    def asked(self) -> list[str]:
        """The varying axes whose levels are compared."""
        return list(self._study.asked)

    @property
    def contexts(self) -> list[str]:
        """The other varying axes, on which compared entries have the same label."""
        return list(self._study.contexts)

    # -- recorded values ---------------------------------------------------------------------

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row per run: its keys, status and results.

        Runs of an entry that diverges from the single-process run have no speed, as in the report.

        >>> study = harness.load("results", study="tiny")
        >>> study.runs["status"].value_counts().loc["done"].item()
        54
        """
        frame = frames.runs(self._study.runs, self._study.levels)
        verdicts = equivalence.by_entry(equivalence.check(self._study))
        frame["equivalence"] = frame["entry"].astype("string").map(verdicts).astype("string")
        diverges = (frame["equivalence"] == DIVERGES).fillna(False)
        frame.loc[diverges, list(frames.SPEED_COLUMNS)] = float("nan")
        spikes: dict[str, list[Spike]] = {}
        for spike in stability.spikes(self._study):
            spikes.setdefault(spike.run_id, []).append(spike)
        stabilities = []
        for run in self._study.runs:
            stabilities.append(vars(stability.of_runs([run], spikes.get(run.run_id, []))))
        for column in ADDED_RUN_COLUMNS[1:]:
            values = [values[column.name] for values in stabilities]
            frame[column.name] = pd.Series(values, index=frame.index, dtype=column.dtype)
        return self._with_attrs(frame)

    @property
    def steps(self) -> pd.DataFrame:
        """A row per training step of each run; `read_steps` reads single columns."""
        return self.read_steps()

    @property
    def evals(self) -> pd.DataFrame:
        """A row per evaluation of each run."""
        return self.read_evals()

    def read_steps(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the given columns of `steps` (default: all).

        Raises:
            KeyError: there is no such column.

        >>> study = harness.load("results", study="tiny")
        >>> losses = study.read_steps(["entry", "seed", "step", "loss"])
        >>> losses.groupby(["entry", "step"], observed=True)["loss"].mean().shape
        (216,)
        """
        return self._with_attrs(frames.steps(self._study.runs, self._study.levels, columns))

    def read_evals(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the given columns of `evals` (default: all).

        Raises:
            KeyError: there is no such column.
        """
        return self._with_attrs(frames.evals(self._study.runs, self._study.levels, columns))

    @property
    def examples(self) -> pd.DataFrame:
        """A row per run, example and metric of tasks of lm-eval that is a mean over examples.

        >>> study = harness.load("results", study="tiny")
        >>> study.examples.groupby(["entry", "task"], observed=True)["value"].mean().shape
        (0,)
        """
        return self._with_attrs(frames.examples(self._study.runs, self._study.levels))

    @property
    def recorded(self) -> list[RunData]:
        """The runs that have recorded a step or are imported, in the study's order."""
        return [run for run in self._study.runs if has_recorded(run)]

    def recorded_frames(self) -> dict[str, pd.DataFrame]:
        """Return `runs`, `steps` and `evals` of the runs in `recorded`."""
        levels = self._study.levels
        is_recorded = self.runs["run_id"].isin([run.run_id for run in self.recorded])
        return {
            "runs": self.runs[is_recorded],
            "steps": frames.steps(self.recorded, levels),
            "evals": frames.evals(self.recorded, levels),
        }

    # -- tables of the report ----------------------------------------------------------------

    entries = _Table("A row per entry: means over seeds, with 95 % intervals.")
    comparisons = _Table(
        "A row per entry: paired differences from the baseline, with 95 % intervals."
    )
    verdicts = _Table("A row per metric and entry: the tests against the baseline and the verdict.")
    pooled = _Table(
        "A row per metric and asked difference: its mean over contexts, and whether it depends on "
        "them; empty without context axes."
    )
    effects = _Table(
        "A row per metric and effect: main effects of the axes and their interactions."
    )
    rankings = _Table("A row per budget and entry: the loss at an equal budget.")
    savings = _Table("A row per entry: the cost to reach the baseline's final loss.")
    variance = _Table("A row per quantity and source of noise; empty unless seeds are crossed.")
    equivalence = _Table("A row per parallel run: its deviation from the single-process run.")
    memory = _Table("A row per run and rank: memory by category, bytes.")
    phases = _Table("A row per run, rank and sample: the seconds of each phase of a step.")
    traffic = _Table("A row per run, rank and collective: calls and bytes of one step.")
    scaling = _Table("A row per entry of a scaling group: speedup over fewer processes.")
    ladder_points = _Table("A row per entry of a ladder and size: the loss and the scale.")
    ladder_fits = _Table("A row per entry of a ladder and scale: the law E + A x^-alpha.")
    ladder_speedups = _Table("A row per entry of a ladder and size: the effective speedup.")
    ladder_trends = _Table("A row per entry of a ladder: the speedup over all sizes, its trend.")
    ladder_projections = _Table("A row per entry of a ladder: its law at `project_to` FLOPs.")
    ladder_curves = _Table("Points of the fitted laws, with intervals.")
    spikes = _Table("A row per loss spike or outlier of the gradient norm of each run.")
    decoding = _Table("A row per entry and setting of the decode probe.")
    lengths = _Table("A row per entry and sequence length of the length probe.")
    tasks = _Table(
        "A row per entry and metric of a task of lm-eval: the difference from the baseline, paired "
        "by seed and example, and the verdict."
    )
    loss_by_position = _Table("A row per run, sequence length and position: the mean loss there.")
    tuning = _Table("A row per entry and setting that it tried: the loss on the tuning windows.")
    tuning_choices = _Table("A row per entry and tuned key: the chosen value, and if at an edge.")
    tuning_costs = _Table("A row per entry: the cost of its trials.")
    tuning_verdicts = _Table("A row per entry: the verdicts before and after tuning.")

    def table(self, name: str) -> pd.DataFrame:
        """Return a table of the report by name; it is empty if the study has no such results.

        Raises:
            KeyError: there is no such table.
        """
        if name not in COLUMNS:
            raise KeyError(f"no table '{name}'; allowed: {', '.join(COLUMNS)}")
        frame = self._summary.tables.get(name)
        if frame is None:
            columns = COLUMNS[name]
            frame = pd.DataFrame(columns=[column.name for column in columns])
            frame = frame.astype({column.name: column.dtype for column in columns})
        labels = [entry.label for entry in self._study.entries]
        if name.startswith(TUNING):  # their entries have no level on this axis
            labels = list(frame["entry"].unique())
        categories = {"entry": labels, **self._study.levels} if "entry" in frame else {}
        fixed = {column.name for column in COLUMNS[name]}  # others are axes
        dtypes = {
            column: pd.CategoricalDtype(list(values))
            for column, values in categories.items()
            if column in frame and (column == "entry" or column not in fixed)
        }
        return self._with_attrs(frame.astype(dtypes))

    def columns(self, table: str) -> pd.DataFrame:
        """Return dtype and meaning, with the unit, of each column of a frame.

        Raises:
            KeyError: there is no such table.
        """
        axes = [Column(axis, "category", f"label on the axis {axis}") for axis in self.axes]
        keys = [*frames.KEY_COLUMNS[:2], *axes, *frames.KEY_COLUMNS[2:]]
        recorded = {
            "runs": [*keys, *frames.RUN_COLUMNS, *ADDED_RUN_COLUMNS],
            "steps": [*keys, *frames.STEP_COLUMNS],
            "evals": [*keys, *frames.EVAL_COLUMNS],
            "examples": [*keys, *frames.EXAMPLE_COLUMNS],
            "entries": [COLUMNS["entries"][0], *axes, *COLUMNS["entries"][1:]],
        }
        documented = {**COLUMNS, **recorded}
        if table not in documented:
            raise KeyError(f"no table '{table}'; allowed: {', '.join(documented)}")
        rows = [(column.name, column.dtype, column.meaning) for column in documented[table]]
        return pd.DataFrame(rows, columns=["name", "dtype", "meaning"]).set_index("name")

    @cached_property
    def _summary(self) -> Summary:
        return summarize(self._study, now())

    def _with_attrs(self, frame: pd.DataFrame) -> pd.DataFrame:
        frame.attrs = {
            "study": self.name,
            "settings_hash": self._study.settings_hash,
            "baseline": dict(self._study.baseline),
            **self.settings,
        }
        return frame


def load(results: str | Path = "results", study: str | None = None) -> StudyFrames:
    """Return the results of a study as DataFrames.

    `results` is the results folder. `study` may be omitted if the folder holds only one. Runs whose
    files are damaged are left out with a warning.

    Raises:
        UserError: there are no results, or several studies and none is named.

    >>> study = harness.load("results")
    >>> study.name
    'tiny'
    """
    store = Store(Path(results))
    if study is None:
        names = store.studies()
        if not names:
            message = "no such folder" if not Path(results).is_dir() else "holds no results"
            raise UserError(
                f"{results}: {message}; run a study first (python -m harness run STUDY.toml) "
                f"or give its results folder: load(results=FOLDER)"
            )
        if len(names) > 1:
            raise UserError(
                f"{results}: holds {len(names)} studies; name one: load(study=NAME); "
                f"{choices('', names)}"
            )
        study = names[0]
    found = dataset.read(store, study)
    for damaged in found.unreadable:
        warnings.warn(f"left out: {damaged.name}: {damaged.why}", stacklevel=2)
    return StudyFrames(found)
