"""A damaged result file is named, and costs its own run only, whichever command reads it.

Each file is replaced by whatever a path may hold: cut, empty or foreign content, a folder, a pipe.
A sample is tried; `FUZZ=5000` tries all.
"""

import contextlib
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
from hostile import DAMAGES, call, ends_soon, restored, sample
from imported_results import evaluation_rows, write_csv
from synthetic_results import SyntheticStudy
from tuned_results import TunedStudy

import harness
from harness.results.store import Store

RUN_FILES = (
    "spec.json",
    "status.json",
    "env.json",
    "probes.json",
    "eval.jsonl",
    "steps.rank0.jsonl",
    "log.txt",
)
FILES = {
    **{file: ("tiny", file) for file in RUN_FILES},
    "launches.jsonl": ("tiny", "../launches.jsonl"),
    "tuning.json": ("tuned", "../tuning.json"),
    "imported.json": ("mine", "imported.json"),
    "status.json of an imported run": ("mine", "status.json"),
}
COMMANDS = {
    "status": ("status", "STUDY"),
    "report": ("report", "STUDY", "--out", "REPORTS"),
    "export": ("export", "STUDY", "--to", "csv", "--out", "REPORTS"),
    "compare": ("compare", "STUDY", "other", "--out", "REPORTS"),
    "list": ("results", "list"),
    "load": (),
}
NOT_READ = {  # by command, the files that it does not read
    "status": {"env.json", "probes.json", "eval.jsonl", "steps.rank0.jsonl", "imported.json"},
    "list": {*FILES} - {"status.json"},
}
# What is no damage: without these files a study is complete, and a torn last line is ignored.
HARMLESS = {
    *(("log.txt", damage) for damage in DAMAGES),
    *((file, damage) for file in ("env.json", "tuning.json") for damage in ("missing",)),
    *((file, damage) for file in ("env.json", "tuning.json") for damage in ("dangling link",)),
    *((file, "zeros at the end") for file in ("eval.jsonl", "steps.rank0.jsonl")),
    *(
        ("launches.jsonl", damage)
        for damage in ("zeros at the end", "missing", "empty", "dangling link")
    ),
    *(("launches.jsonl", damage) for damage in ("half", "first byte", "zeros")),
}


@dataclass(frozen=True)
class Results:
    """A results folder with three studies, and their runs."""

    root: Path

    def path(self, name: str) -> tuple[str, Path]:
        """Return study and path of a file."""
        study, file = FILES[name]
        run = next(run for run in Store(self.root).runs(study) if "-s1" in run.run_id)
        return study, (run.path.parent if file.startswith("..") else run.path) / Path(file).name

    def call(self, command: str, study: str) -> tuple[int, str]:
        """Return the exit code of a command and all that it says or writes for people."""
        if command == "load":
            with ends_soon(command), warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                assert len(harness.load(self.root, study).runs)
                return 0, "\n".join(str(warning.message) for warning in said)
        reports = self.root.parent / "reports"
        shutil.rmtree(reports, ignore_errors=True)
        places = {"STUDY": study, "REPORTS": reports}
        arguments = [places.get(part, part) for part in COMMANDS[command]]
        code, out, err = call(*arguments, "--results", self.root)
        pages = [path.read_text() for path in reports.rglob("report.md")]
        return code, "\n".join([out, err, *pages])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile") / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda fd: None)
        patch.setattr("harness.report.charts.mpl.render", lambda spec: {})
        axes = {
            "positional": ["learned"],
            "attention": ["mha", "gqa2"],
            "parallelism": ["single"],
        }
        for name in ("other", "tiny"):
            study = SyntheticStudy(root, axes=axes, seeds=(0, 1), name=name)
            study.decode, study.lengths = ([1], [64]), [64]
            study.write()
        TunedStudy(root, seeds=(0, 1), lrs=[1e-3, 3e-3], name="tuned").write()
        table = write_csv(root.parent / "table.csv", list(evaluation_rows()))
        code, _, err = call(
            *("ingest", table, "--study", "mine", "--baseline", "adamw", "--results", root),
        )
        assert code == 0, err
        yield Results(root)


@pytest.mark.parametrize("command", COMMANDS)
def test_healthy_results_are_read(results, command):
    for study in ("tiny", "tuned", "mine"):
        if command != "compare" or study == "tiny":
            assert results.call(command, study)[0] == 0


CASES = {
    f"{command} | {file} | {damage}": (command, file, damage)
    for command in COMMANDS
    for file in FILES
    for damage in DAMAGES
    if command != "compare" or FILES[file][0] == "tiny"
}


@pytest.mark.parametrize("case", sample(CASES, 12))
def test_a_damaged_file_is_named_and_the_others_are_read(results, case):
    command, name, damage = CASES[case]
    study, path = results.path(name)
    run_id = path.parent.name
    with restored(path):
        DAMAGES[damage](path)
        code, said = results.call(command, study)
    assert code == 0, said
    is_read = name not in NOT_READ.get(command, set())
    if is_read and (name, damage) not in HARMLESS:
        is_named = path.name.split("0")[0] in said
        is_named |= name == "imported.json" and damage == "missing" and "spec.json" in said
        # Without its status a run has not been created: it is gone rather than damaged.
        is_gone = path.name == "status.json" and damage in ("missing", "dangling link", "loop")
        assert is_named or is_gone or (command == "list" and "unreadable" in said), said
        if path.parent.parent != results.root and not is_gone and command != "list":
            assert run_id in said


def test_no_permission_is_named(results, monkeypatch):
    """Root may read everything."""
    _, path = results.path("probes.json")
    opened = open

    def refuse(file, *arguments, **options):
        if str(file) == str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(file, *arguments, **options)

    monkeypatch.setattr("builtins.open", refuse)
    code, said = results.call("export", "tiny")
    assert code == 0 and "probes.json" in said and "Permission denied" in said


LOST_LINES = {"eval.jsonl": 1, "steps.rank0.jsonl": 3}


@pytest.mark.parametrize("name", LOST_LINES)
def test_a_run_that_is_done_must_have_all_its_lines(results, name):
    """Else the loss or the time of an earlier step would be its result."""
    _, path = results.path(name)
    with restored(path):
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[: -LOST_LINES[name]]))
        code, said = results.call("report", "tiny")
    assert code == 0 and f"{path.parent.name}`: {name.split('0')[0]}" in said


@contextlib.contextmanager
def added(path: Path, make):
    """Put something into a results folder, and remove it."""
    make(path)
    try:
        yield
    finally:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


STRANGERS = {
    "file": lambda path: path.write_bytes(b"x"),
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "loop": lambda path: path.symlink_to(path.name),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "device": lambda path: path.symlink_to("/dev/ptmx"),
    "link to the root": lambda path: path.symlink_to("/"),
    "link to itself": lambda path: path.symlink_to("."),
}
PLACES = (
    "stranger",
    "tiny/stranger",
    "tiny/.claims",
    "tiny/.outdated",
    "tiny/.timing",
    "tiny/archive",
    "tiny/submissions",
    "tiny/RUN/stranger",
    "tiny/RUN/checkpoint",
    "tiny/RUN/steps.rank9.jsonl",
    "tiny/RUN/log.node.txt",
)
STORE_CASES = {
    f"{command} | {place} | {what}": (command, place, what)
    for command in COMMANDS
    for place in PLACES
    for what in STRANGERS
}


@pytest.mark.parametrize("case", sample(STORE_CASES, 8))
def test_what_does_not_belong_to_a_store_is_left_alone(results, case):
    """Other files in a folder of results, and folders that are something else."""
    command, place, what = STORE_CASES[case]
    _, file = results.path("spec.json")
    path = results.root / place.replace("RUN", file.parent.name)
    aside = path.with_name("aside")
    if path.exists():
        path.rename(aside)
    try:
        with added(path, STRANGERS[what]):
            code, said = results.call(command, "tiny")
    finally:
        if aside.exists():
            aside.rename(path)
    is_read = place.endswith("steps.rank9.jsonl") and command in ("report", "export", "compare")
    assert code == 0 and (not is_read or "steps.rank" in said or what == "dangling link"), said
