"""Slurm's commands: text that Slurm 22.05 printed, and commands that fail or hang."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.launch.slurm import commands
from harness.launch.slurm.commands import CommandError, NoAnswerError, NodeEntry, QueueEntry

SQUEUE = """\
1_0|1|0|COMPLETED|None|n1|a b|c
1_2|1|2|RUNNING|None|n[1-2]|a b|c
1_4|1|4|PENDING|Resources||a b|c
2|2|N/A|PENDING|JobHeldUser||held
1_[5-9%2]|1|5-9%2|PENDING|JobArrayTaskLimit||a b|c
"""
SINFO = """\
n1|urgent|2|(null)|(null)|NO
n1|main*|2+|gpu:a100:4|fast,new|FORCE:4
"""
SACCT = """\
7_0|COMPLETED|0:0|n1
7_1|CANCELLED by 1000|0:15|n2
7_2|OUT_OF_MEMORY|0:125|n2
"""

Fake = Callable[..., Path]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Put a shell script of a name on the PATH; return the file of its arguments and input."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def write(name: str, body: str) -> Path:
        called = tmp_path / f"{name}.called"
        script = tmp_path / name
        script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {called}\n{body}\n')
        script.chmod(0o755)
        return called

    return write


def test_queue_is_read():
    entries = commands.parse_squeue(SQUEUE)
    assert entries[1] == QueueEntry("1_2", "1", 2, "a b|c", "RUNNING", "", "n[1-2]")
    assert [entry.index for entry in entries] == [0, 2, 4, None, None]
    assert [entry.is_queued for entry in entries] == [False, True, True, True, True]
    assert [entry.has_started for entry in entries] == [False, True, False, False, False]
    assert [entry.reason for entry in entries][2:4] == ["Resources", "JobHeldUser"]


def test_accounts_and_nodes_are_read():
    assert [entry.state for entry in commands.parse_sacct(SACCT)] == [
        "COMPLETED",
        "CANCELLED",
        "OUT_OF_MEMORY",
    ]
    nodes = commands.parse_sinfo(SINFO)
    assert nodes[0] == NodeEntry("n1", "urgent", False, 2, "", "", "NO")
    assert nodes[1] == NodeEntry("n1", "main", True, 2, "gpu:a100:4", "fast,new", "FORCE:4")
    assert [node.shares_by_force for node in nodes[:2]] == [False, True]


@pytest.mark.parametrize("text", ["Slurm is down for maintenance", "1|2|3", "x|y|z|a|b|c|d"])
@pytest.mark.parametrize("parse", [commands.parse_squeue, commands.parse_sinfo])
def test_garbage_is_no_empty_answer(parse, text):
    with pytest.raises(CommandError, match="unknown line"):
        parse(text)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo slurm_load_jobs error >&2; exit 1", "squeue: slurm_load_jobs error"),
        ("exit 3", "squeue: exit code 3"),
        ("printf '\\377\\376'", "unknown line"),
        ("sleep 1000 & wait", "no answer for 0.3 s"),
    ],
)
def test_failing_command_is_named(fake, monkeypatch, body, message):
    if "no answer" in message:
        monkeypatch.setattr(commands, "QUERY_TIMEOUT_S", 0.3)
    fake("squeue", body)

    with pytest.raises(CommandError, match=message) as error:
        commands.squeue(["a"])
    assert isinstance(error.value, NoAnswerError) == ("no answer" in message)


def test_missing_command_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandError, match="sbatch: is not installed here"):
        commands.sbatch([], "#!/bin/sh\n")


def test_queries_ignore_settings_of_the_user(fake, monkeypatch):
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    fake("squeue", '[ -z "$SQUEUE_STATES" ] || exit 1')
    assert commands.squeue(["a"]) == []


@pytest.mark.parametrize(
    ("variable", "reaches"),
    [
        ("SBATCH_TIMELIMIT", False),
        ("SBATCH_OPEN_MODE", False),
        ("SBATCH_ARRAY_INX", False),
        ("SBATCH_NO_REQUEUE", False),
        ("SBATCH_ACCOUNT", True),
    ],
)
def test_variables_override_no_option_of_the_script(fake, monkeypatch, variable, reaches):
    monkeypatch.setenv(variable, "1")
    fake("sbatch", f'[ -z "${variable}" ] && echo 1 || echo 2')
    script = "#!/bin/bash\n#SBATCH --time=10\n#SBATCH --open-mode=append\n"
    assert commands.sbatch([], script) == ("2" if reaches else "1")


def test_job_id_is_read(fake):
    called = fake("sbatch", "cat >> $0.called; echo 'sbatch: note' ; echo '123;cluster'")
    assert commands.sbatch(["--array=0-3"], "#!/bin/sh\ntrue\n") == "123"
    assert called.read_text() == "--parsable --array=0-3\n#!/bin/sh\ntrue\n"


@pytest.mark.parametrize("answer", ["", "Submitted batch job 5", "-1"])
def test_answer_without_job_id_is_refused(fake, answer):
    fake("sbatch", f"echo {answer}")
    with pytest.raises(CommandError, match="printed no job id"):
        commands.sbatch([], "#!/bin/sh\n")


def test_cancelled_elements_are_complete(fake):
    """10,000 elements with gaps: short command lines that name each element once."""
    called = fake("scancel", "true")
    wanted = [i for i in range(10_000) if i % 3]
    commands.scancel([f"5_{i}" for i in wanted])
    lines = called.read_text().splitlines()
    assert max(map(len, lines)) < 100_000
    named = []
    for line in lines:
        for target in line.removeprefix("--quiet ").split():
            for part in target.removeprefix("5_[").removesuffix("]").split(","):
                low, _, high = part.partition("-")
                named += range(int(low), int(high or low) + 1)
    assert named == wanted


def test_nothing_to_ask_asks_nothing(fake):
    called = fake("squeue", "exit 1")
    assert commands.squeue([]) == []
    assert not called.exists()


def test_array_size_is_read(fake):
    fake("scontrol", "echo 'MaxArraySize            = 1001'")
    assert commands.max_array_size() == 1001
