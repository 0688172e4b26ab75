"""Equal tuning: settings tried and chosen, their cost, and the verdicts that change."""

from collections.abc import Iterator, Mapping

from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import (
    Block,
    Code,
    Emphasis,
    ItemList,
    Text,
    code_list,
    join,
    note,
    paragraph,
    text,
)
from harness.report.formatting import MISSING, count
from harness.report.sections import Charts, chart_blocks
from harness.report.tables import (
    Column,
    Record,
    difference_column,
    display,
    mean_column,
    number_column,
    text_column,
)
from harness.results.records.estimates import Mean
from harness.results.records.tuning import (
    TunedKey,
    TunedRange,
    TuneSettings,
    TuningComparison,
    TuningResults,
)

METHODS = {
    "grid": "all combinations",
    "random": "quasi-random",
    "halving": "successive halving",
}
NOUNS: Mapping[bool, str] = {True: "gain", False: "loss"}  # of a difference below or above zero


def build(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the losses of the trials, the choices, their cost, and the verdicts they change."""
    tuning = summary.tuning
    if tuning is None:
        return
    yield paragraph(*_procedure(tuning.settings))
    if tuning.comparisons:
        yield ItemList([sentence(row) for row in tuning.comparisons])
    yield from _warnings(tuning)
    yield from chart_blocks(charts, "tuning")
    tables = summary.tables
    if any(key.chosen is not None for key in tuning.keys):
        columns = [
            text_column("entry"),
            text_column("setting", "key"),
            text_column("untuned"),
            text_column("chosen"),
            Column("at the edge", _edge, numeric=False),
        ]
        yield display("Chosen settings", tables["tuning_choices"], columns)
    unchanged = list(_unchanged(tuning))
    if unchanged:
        yield paragraph(
            "The chosen settings are the study's own, and the tuned runs are the untuned ones: ",
            code_list(unchanged),
            ".",
        )
    if tuning.comparisons:
        columns = [
            text_column("entry"),
            text_column("against"),
            difference_column("untuned", "untuned"),
            text_column("verdict", "untuned_verdict"),
            difference_column("tuned", "tuned"),
            text_column("verdict, tuned", "tuned_verdict"),
            text_column("outcome"),
        ]
        caption = "Difference of the validation loss, untuned and tuned"
        yield display(caption, tables["tuning_verdicts"], columns)
    yield from _costs(summary, tuning)
    columns = [
        text_column("entry"),
        number_column("steps", "steps"),
        text_column("setting"),
        mean_column("loss", "val_loss"),
        Column("failed seeds", _failed_seeds, numeric=False),
        Column("", lambda row: "chosen" if row["chosen"] else "", numeric=False),
    ]
    yield display("All trials", tables["tuning"], columns, folded=True)


def _procedure(settings: TuneSettings) -> Text:
    spaces = []
    for key, space in settings.axes.items():
        if isinstance(space, TunedRange):
            scale = ", logarithmic" if space.log else ""
            spaces.append(text(Code(key), f" from {space.low:g} to {space.high:g}{scale}"))
        else:
            spaces.append(text(Code(key), f" in {', '.join(map(str, space))}"))
    rungs = ""
    if settings.rungs:
        steps = ", ".join(f"{n:,}" for n in settings.rungs)
        rungs = f" The better half continues at each rung of {steps} steps."
    seeds = ", ".join(map(str, settings.seeds))
    return text(
        f"Every entry tried the same {settings.budget:,} settings ({METHODS[settings.method]}) of ",
        join(spaces, "; "),
        f", on the {count(len(settings.seeds), 'tuning seed')} {seeds}: "
        f"{count(settings.n_runs, 'run')} each.{rungs} The lowest mean loss is chosen. Trials are "
        "evaluated on every second validation window, the final runs on the others and on other "
        "seeds, so that no verdict rests on what chose the settings.",
    )


def sentence(row: TuningComparison) -> Text:
    """Say in one sentence how a verdict changes when both entries are tuned."""
    names = text(Code(row.entry), " against ", Code(row.against))
    if row.untuned is None or row.tuned is None or row.outcome is None:
        return text(names, ": no verdict before and after tuning yet.")
    tuned = _interval(row.tuned)
    if row.outcome == "no difference shown":
        return text(names, f": no difference is shown, neither untuned nor tuned ({tuned}).")
    if row.outcome == "appears":
        size = f": a {NOUNS[row.tuned.mean < 0]} of {abs(row.tuned.mean):.4f} "
        appears = Emphasis("appears only when both are tuned")
        return text(names, size, appears, f" ({tuned}).")
    noun = NOUNS[row.untuned.mean < 0]
    at_equal = f": the {noun} of {abs(row.untuned.mean):.4f} at equal settings "
    size = f"{abs(row.tuned.mean):.4f}"
    changes = {
        "holds": "holds",
        "shrinks": f"shrinks to {size}",
        "grows": f"grows to {size}",
        "vanishes": "vanishes",
        "not shown": "is not shown any more",
        "reverses": f"becomes a {NOUNS[row.tuned.mean < 0]}",
    }
    return text(names, at_equal, Emphasis(changes[row.outcome]), f" when both are tuned ({tuned}).")


def _interval(difference: Mean) -> str:
    low, high = difference.ci95 or (None, None)
    return formatting.difference(difference.mean, low, high)


def edge_warning(tuning: TuningResults) -> Text:
    """Return a warning of optima that may lie beyond the values tried; empty without any."""
    at_edge: dict[tuple[str, str, str], list[TunedKey]] = {}
    for key in tuning.keys:
        if key.edge is not None:
            at_edge.setdefault((key.key, key.edge, str(key.suggested)), []).append(key)
    parts = []
    for (name, edge, suggested), keys in at_edge.items():
        entries = code_list([key.entry for key in keys])
        parts.append(text(entries, f" at the {edge} ", Code(name), f" (try {suggested})"))
    if not parts:
        return ()
    return text("The optimum may lie beyond the settings that were tried: ", join(parts, "; "), ".")


def _warnings(tuning: TuningResults) -> Iterator[Block]:
    warning = edge_warning(tuning)
    if warning:
        yield note(*warning)
    failed = {cost.entry: cost.n_failed for cost in tuning.costs if cost.n_failed}
    if failed:
        named = [text(Code(entry), f" ({n})") for entry, n in failed.items()]
        yield note("Trials that failed count as infinite losses: ", join(named, ", "), ".")
    unchosen = [cost.entry for cost in tuning.costs if not _is_chosen(tuning, cost.entry)]
    if unchosen:
        yield note("No setting is chosen yet for ", code_list(unchosen), ".")


def _unchanged(tuning: TuningResults) -> Iterator[str]:
    """Yield the entries whose chosen settings are those of the study."""
    for cost in tuning.costs:
        keys = [key for key in tuning.keys if key.entry == cost.entry]
        if all(key.chosen == key.untuned for key in keys):
            yield cost.entry


def _is_chosen(tuning: TuningResults, entry: str) -> bool:
    return any(key.entry == entry and key.chosen is not None for key in tuning.keys)


def _costs(summary: Summary, tuning: TuningResults) -> Iterator[Block]:
    numbers = {(cost.n_settings, cost.n_runs) for cost in tuning.costs}
    if len(numbers) == 1:
        n_settings, n_runs = numbers.pop()
        yield paragraph(
            f"Tuning cost: equal for all entries, {count(n_settings, 'setting')} in "
            f"{count(n_runs, 'run')} each."
        )
    else:
        yield note("The entries have tried different numbers of settings so far.")
    columns = [
        text_column("entry"),
        number_column("settings", "n_settings"),
        number_column("runs", "n_runs"),
        number_column("done", "n_done"),
        number_column("failed", "n_failed"),
        number_column("FLOPs", "flops", "{:.3g}".format),
        number_column("training time, s", "train_s", "{:,.1f}".format),
    ]
    yield display("Tuning cost", summary.tables["tuning_costs"], columns)


def _edge(row: Record) -> str:
    return f"{row['edge']}; try {row['suggested']}" if row["edge"] else "no"


def _failed_seeds(row: Record) -> str:
    return ", ".join(map(str, row["seeds_failed"])) or MISSING
