"""Commands on a results folder that someone or something has changed.

None has a bug, none changes a file outside of the results, and none loses what it is not asked to
remove. A sample is tried; `FUZZ=5000` tries all.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hostile import sample
from tampered_results import Tampered, tampered_results
from tampering import CASES, snapshot

from harness.launch.slurm import commands


@dataclass(frozen=True)
class Command:
    """A command; `removes` what it may remove, `moves` whether it moves the study."""

    arguments: tuple[str, ...]
    moves: bool = False
    removes: bool = False
    states: tuple[str, ...] = ("done",)


COMMANDS = {
    "status": Command(("status", "s")),
    "cancel": Command(("cancel", "s"), states=("elsewhere",)),
    "list": Command(("results", "list"), states=("failed",)),
    "report": Command(("report", "s", "--out", "reports"), states=("interrupted",)),
    "watch": Command(("report", "s", "--out", "reports", "--watch"), states=("elsewhere",)),
    "remove": Command(("results", "remove", "s", "--yes"), removes=True),
    "remove some": Command(
        ("results", "remove", "s", "--yes", "--where", "positional=learned"),
        removes=True,
        states=("done", "elsewhere"),
    ),
    "rename": Command(("results", "move", "s", "t"), moves=True),
    "move": Command(("results", "move", "s", "--to", "results/deeper"), moves=True),
}
COMMAND_CASES = {
    f"{name} | {case}": (name, case)
    for name, command in COMMANDS.items()
    for case, (state, _, _) in CASES.items()
    if state in command.states
}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Iterator[Tampered]:
    def no_slurm(*_: object) -> None:
        raise commands.CommandError("squeue is not installed")

    with (
        pytest.MonkeyPatch.context() as patch,
        tampered_results(tmp_path_factory.mktemp("tampered")) as results,
    ):
        patch.setattr(commands, "squeue", no_slurm)
        patch.setattr("harness.report.charts.mpl.render", lambda spec: {})
        patch.setattr("harness.report.watch.sleep", interrupt)
        yield results


def interrupt(_: float) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("case", sample(COMMAND_CASES, 12))
def test_commands_bear_tampered_results(results, case):
    name, tampering = COMMAND_CASES[case]
    command = COMMANDS[name]
    state, _, apply = CASES[tampering]
    results.restore(state)
    outside = snapshot(results.outside)
    apply(results)
    before = snapshot(results.store.root)
    code, said = results.call(*command.arguments)
    after = snapshot(results.store.root)
    shutil.rmtree(results.folder / "reports", ignore_errors=True)
    assert snapshot(results.outside) == outside, said
    allowed = (0, 2, 130) if name == "watch" else (0, 2)
    assert code in allowed and (code != 2 or "error:" in said), said
    if command.removes and code == 0:
        return
    assert sorted(contents(before, command.moves)) == sorted(contents(after, command.moves)), said


def contents(files: dict[str, object], moves: bool) -> Iterator[str]:
    """Yield what must stay: each file with its path, unless the study moves; claims are renewed."""
    for path, content in files.items():
        if ".claims" in path or content is None:
            continue
        is_named = moves and path.endswith("spec.json")  # specs have the name of the study
        yield f"{path.rpartition('/')[2] if moves else path}: {None if is_named else content!r}"
