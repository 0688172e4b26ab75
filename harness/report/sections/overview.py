"""The top of the report: the question, the answer in a few sentences, and the state of the runs."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from harness.analysis import comparability, lost_seeds, settings
from harness.analysis.caveats import LEAKS
from harness.analysis.dataset import StudyResults
from harness.analysis.metrics import DIVERGES
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import (
    Block,
    Code,
    Emphasis,
    ItemList,
    Note,
    Text,
    code_list,
    join,
    note,
    paragraph,
    text,
)
from harness.report.formatting import count
from harness.report.sections import scope
from harness.results.records import Looks
from harness.results.records.caveats import Caveat, CaveatKind
from harness.results.records.entries import EntryResult

MAX_TRENDS = 3  # effective speedups that are stated
MAX_CAVEATS = 6  # of one kind that are listed
CAVEAT_TITLES: Mapping[CaveatKind, str] = {
    "non-causal": "Not causal: these entries see later tokens. Their losses are not comparable.",
    "outdated": "Outdated: the code has changed since these runs.",
    "below-entropy": "Loss below the corpus's entropy, which no causal model reaches.",
    "lost-seeds": "Lost seeds: these entries gain no verdict, rank or lead.",
    "overfitting": "Overfitting: the final validation loss is not the lowest.",
    "unstable": "Unstable training: results that rest on these runs may depend on the spikes.",
    "initial-loss": "Unusual initial loss.",
    "counted-flops": "FLOPs: the counted figure replaces the variant's formula.",
    "other-budget": "Other training budget than the baseline's.",
    "not-compiled": "Not fully compiled: no speed is reported.",
    "other-precision": "Other precision than the baseline's, in validation too.",
    "other-hardware": "Another machine than the baseline's: these times are not compared.",
    "shared-machine": "Shared machine: step times include the load of other runs.",
    "unplanned-look": "Unplanned looks: seeds were added when results could be seen.",
}


def baseline_labels(summary: Summary) -> list[str]:
    """Return the labels of the entries with which others are compared."""
    return list(dict.fromkeys(comparison.against for comparison in summary.comparisons))


def _leaking(summary: Summary) -> set[str]:
    """Return the entries whose loss only a model that sees later tokens reaches."""
    return {
        caveat.entry
        for caveat in summary.caveats
        if caveat.entry is not None and caveat.kind in LEAKS
    }


def status(summary: Summary) -> Iterator[Block]:
    """Return the number of runs by status, the leading entries, the corpus, and warnings."""
    study = summary.study
    yield from scope.notes(study)
    statuses = Counter(run.status for run in study.runs)
    by_status = ", ".join(f"{n} {status}" for status, n in sorted(statuses.items())) or "none"
    entries = count(len(study.entries), "entry", "entries")
    n_runs = count(len(study.runs), "run")
    yield paragraph(f"{entries} in {n_runs}: {by_status}. ", _leaders(summary))
    if study.looks is not None and study.looks.planned and not study.looks.is_fixed:
        yield paragraph(_planned_looks(study.looks, study.n_complete_looks))
    for data in settings.texts(study):
        corpus = (Code(data.corpus), " (SHA-256 ", Code(f"{data.sha256[:12]}…"), ")")
        yield paragraph(
            "Corpus: ",
            corpus,
            ", tokenizer ",
            Code(data.tokenizer),
            ".",
            _entropy(data.entropy_nats_per_byte),
        )
    if study.source is not None:
        yield note(
            "Imported from ",
            Code(study.source.path),
            " (SHA-256 ",
            Code(f"{study.source.sha256[:12]}…"),
            "): results of another trainer, as its table states them.",
        )
    if summary.diverging:
        verb = "does" if len(summary.diverging) == 1 else "do"
        yield note(
            code_list(sorted(summary.diverging)),
            f" {verb} not reproduce the single-process run (see the equivalence of parallelisms), "
            "so no speed is reported.",
        )
    yield from caveat_notes(summary.caveats)
    yield from _warnings(study)


def _planned_looks(looks: Looks, n_complete: int) -> str:
    """Return the planned looks, their levels, and how many are complete."""
    counts = ", ".join(str(len(look.seeds)) for look in looks.looks)
    levels = list(dict.fromkeys(f"{look.level:.2g}" for look in looks.looks))
    each = " each" if len(levels) == 1 else ""
    state = f"The verdicts are those after {count(n_complete, 'look')}."
    if n_complete == 0:
        state = "The first look is not complete: its verdicts are preliminary."
    return (
        f"Planned looks at {counts} seeds, at the level {', '.join(levels)}{each}; entries with a "
        f"verdict get no more seeds. {state}"
    )


def caveat_notes(caveats: Sequence[Caveat]) -> Iterator[Note]:
    """Return a note for each kind of caveat, with at most `MAX_CAVEATS` of its messages."""
    by_kind: dict[CaveatKind, list[Caveat]] = {}
    for caveat in caveats:
        by_kind.setdefault(caveat.kind, []).append(caveat)
    for kind, found in by_kind.items():
        by_message: dict[str, list[str]] = {}
        for caveat in found:
            by_message.setdefault(caveat.message, []).extend([caveat.entry] if caveat.entry else [])
        items = []
        for message, labels in list(by_message.items())[:MAX_CAVEATS]:
            subject = text(code_list(labels), ": ") if labels else ()
            items.append(text(subject, message))
        if len(by_message) > MAX_CAVEATS:
            items.append(text(f"{len(by_message) - MAX_CAVEATS} more; summary.json has all."))
        yield Note([paragraph(Emphasis(CAVEAT_TITLES[kind])), ItemList(items)])


def _leaders(summary: Summary) -> Text:
    """Return the entries of lowest loss and highest throughput, of those with the most results.

    They are selected from many, so their own intervals would be too narrow and are not stated.
    """
    lost = lost_seeds.selected(summary.study.entries)
    results = [result for result in summary.with_results if result.entry not in lost]
    if summary.with_results and not results:
        return text("No entry leads: each one lost seeds that others did not.")
    leaking = _leaking(summary)
    results = [result for result in results if result.entry not in leaking] or results
    sound = [result for result in results if result.equivalence != DIVERGES] or results
    complete = [result for result in sound if result.seeds_done == result.seeds]
    looks = summary.study.looks
    if not complete or (looks is not None and not looks.is_fixed):
        complete = sound  # entries that stopped at an early look are complete, but not the leaders
    if not complete:
        return text("No run is done yet, so there are no results.")
    best = min(complete, key=_rounded_loss)
    lowest: Text = ()
    if best.val_loss and comparability.unit_of_all(summary.study) == "nats per token":
        loss = formatting.fixed(best.val_loss.mean)
        lowest = text(
            "Lowest final validation loss: ", Code(best.entry), f", {loss} nats per token."
        )
    speeds = {
        result.entry: result.tokens_per_s
        for result in complete
        if result.tokens_per_s and result.entry not in summary.without_speed
    }
    fastest: Text = ()
    if speeds:
        label, speed = max(speeds.items(), key=lambda item: item[1].median)
        shown = formatting.significant_figures(speed.median)
        fastest = text("Highest throughput: ", Code(label), f", {shown} tokens per second.")
    caveat = "The paired differences below show whether such a lead exceeds the noise."
    sentences = [lowest, fastest, text(caveat if len(complete) > 1 and summary.comparisons else "")]
    left_out = len(sound) - len(complete)
    if left_out:
        rest = count(left_out, "other entry", "other entries")
        sentences.insert(0, text(f"Without {rest} whose runs are not all done:"))
    return join([sentence for sentence in sentences if sentence], " ")


def _rounded_loss(result: EntryResult) -> float:
    return round(result.val_loss.mean, 4) if result.val_loss else math.inf


def _entropy(nats_per_byte: float | None) -> str:
    if nats_per_byte is None:
        return ""
    return (
        " The corpus is synthetic, so the lowest reachable validation loss is known: "
        f"{nats_per_byte:.4f} nats per byte, {nats_per_byte / math.log(2):.4f} bits per byte."
    )


def _warnings(study: StudyResults) -> Iterator[Note]:
    if study.superseded:
        replaced = "newer runs of the same entries and seeds replace them"
        if study.superseded == 1:
            replaced = "a newer run of the same entry and seed replaces it"
        yield note(f"{count(study.superseded, 'run')} left out because {replaced}.")
    by_hand = [run.env for run in study.runs if run.env and run.env.job is None]
    used = {env.machine for env in by_hand}
    jobs = [run.env for run in study.runs if run.env and run.env.job is not None]
    if jobs:
        hosts = count(len({env.host for env in jobs}), "host")
        types = sorted({env.node_type for env in jobs})
        n_types = count(len(types), "type")
        yield note(
            f"{count(len(jobs), 'run')} ran as jobs, on {hosts} of {n_types} ({'; '.join(types)}). "
            "Times are compared only if all seeds of an entry ran on one type of host."
        )
    if len(used) > 1:
        yield note(
            f"The runs used {len(used)} machines ({', '.join(sorted(used))}). Times are compared "
            "only between runs of one seed on one machine."
        )
    yield from unreadable_notes(study)


def unreadable_notes(study: StudyResults, name: str = "") -> Iterator[Note]:
    """Yield which folders of a study, called by its name if given, are left out as damaged."""
    if study.unreadable:
        n_folders = count(len(study.unreadable), "folder") + (f" of {name}" if name else "")
        reasons = [text(Code(item.name), f": {item.why}") for item in study.unreadable]
        intro = paragraph(f"{n_folders} could not be read and are left out:")
        yield Note([intro, ItemList(reasons)])
