"""The scope of a report: the study file that it follows, the selected entries and the settings."""

from collections.abc import Iterator

from harness.analysis.dataset import StudyResults
from harness.report.document import (
    Block,
    Cell,
    Code,
    ItemList,
    Note,
    code_list,
    note,
    paragraph,
    text,
)
from harness.report.formatting import count
from harness.report.tables import table


def notes(study: StudyResults) -> Iterator[Block]:
    """Return how the report differs from one of the whole study as its newest launch states it."""
    yield from _selected(study)
    yield from _followed(study)
    yield from _settings(study)


def _selected(study: StudyResults) -> Iterator[Block]:
    selected = study.selected
    if selected is None:
        return
    if selected.where:
        n_entries = count(len(study.entries), "entry", "entries")
        yield note(
            "This report covers ",
            code_list([f"--where {condition}" for condition in selected.where]),
            f" with the baselines: {n_entries}, {selected.entries_left_out:,} left out. Its "
            "families of tests contain only these entries: a selection that was made after looking "
            "at the results makes their error rates larger.",
        )
    if selected.baseline:
        looks = ""
        if study.looks is not None and not study.looks.is_fixed:
            looks = (
                " The looks were planned for the study's own baseline: entries stopped at verdicts "
                "against that one, and may lack seeds for verdicts against this one."
            )
        yield note(
            "Verdicts are against ",
            code_list([f"--baseline {condition}" for condition in selected.baseline]),
            ", not the study's own baseline. A baseline that was chosen after looking at the "
            f"results makes the error rates of the verdicts larger.{looks}",
        )


def _followed(study: StudyResults) -> Iterator[Block]:
    if study.followed is None:
        return
    file = study.followed.as_record()
    if file.left_out:
        n_runs = count(file.left_out, "run")
        yield note(f"{n_runs} of entries that the study file no longer contains left out.")
    if file.looks_edited:
        yield note(
            "The study file states other looks than when its runs were launched; the verdicts use "
            "the looks of the file."
        )
    if not file.differences:
        return
    items = []
    for found in file.differences:
        stated = text("the study file's ", Code(found.key), f" is {found.stated}")
        items.append(text(stated, f", these runs have {found.used}"))
    intro = paragraph(
        "The study file has other settings than these runs. For results of its settings, run the "
        "study again: ",
        Code(f"python -m harness run {file.path}"),
    )
    yield Note([intro, ItemList(items)])


def _settings(study: StudyResults) -> Iterator[Block]:
    """Return the runs by settings, if the study has several, and why these are reported."""
    if not study.settings_groups:
        return
    reason = "they are those of the newest launch"
    if study.selected is not None and study.selected.settings is not None:
        reason = "they were selected"
    elif study.followed is not None and not study.followed.differences:
        reason = "they are the newest that agree with the study file"
    rows: list[list[Cell]] = []
    for group in study.settings_groups:
        differs = "; ".join(group.differs) or ("" if group.reported else "not recorded")
        newest = (group.newest or "").partition(".")[0].replace("T", " ")
        rows.append([Code(group.settings_hash), f"{group.runs:,}", newest, differs])
    rows[0][-1] = "reported"
    shown = table(
        "Runs by settings", ["settings", "runs", "newest start", "differs in"], rows, ["runs"]
    )
    intro = paragraph(
        f"{count(study.left_out, 'run')} of other settings (model, data, training or "
        "initialization) left out. This report covers the settings ",
        Code(study.settings_hash),
        f": {reason}. ",
        Code("--settings HASH"),
        " selects others.",
    )
    yield Note([intro, shown])
