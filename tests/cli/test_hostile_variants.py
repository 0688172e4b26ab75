"""Whatever the code of a user's variant does, and wherever: a named failure, or a correct success.

Each place of a variant's code is combined with each deed. A command runs in a process of its own,
forked from this one. A sample is tried; `FUZZ=5000` tries all.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hostile import BASES, sample
from hostile_code import CHANGES, ENDS, HARMLESS, IMPORTS, RAISED

from harness.cli import app, isolation
from harness.results.store import Store

LIMIT_S = 120  # of a test machine that is busy
PARTS = ("attention", "norm", "mlp")
STUDY = """
[study]
name = "s"
seeds = [0]
variant_paths = ["own"]
[model]
n_layer = 1
n_head = 2
n_embd = 16
seq_len = 8
[data]
corpus = "text.txt"
[train]
steps = 2
tokens_per_step = 32
eval_tokens = 32
device = "cpu"
[axes]
AXIS = ["mine"]
"""
FILE = """
import IMPORTS
from pathlib import Path
import torch
from variants.AXIS.BASE as Base

KEEP = object()

def deed():
    Path("REACHED").touch()
    DEED
    return KEEP

MODULE

class V(Base):
    BODY
"""
CALL = "done = deed()\n        if done is not KEEP: return done\n        "
PLACES = {  # the axes and the code in the module, in the class
    "import": (tuple(BASES), "deed()", "pass"),
    "class body": (tuple(BASES), "", "deed()"),
    "constructor": (
        tuple(BASES),
        "",
        "def __init__(self, *args, **kwargs):\n        super().__init__(*args, **kwargs)\n        "
        "deed()",
    ),
    "check": (
        tuple(BASES),
        "",
        f"@classmethod\n    def check(cls, *args):\n        {CALL}return super().check(*args)",
    ),
    "why_unsupported": (
        ("optimizer", "parallelism"),
        "",
        f"def why_unsupported(self, *args):\n        {CALL}return super().why_unsupported(*args)",
    ),
    "make": (
        ("optimizer",),
        "",
        f"def make(self, *args):\n        {CALL}return super().make(*args)",
    ),
    "forward": (
        PARTS,
        "",
        f"def forward(self, *args, **kw):\n        {CALL}return super().forward(*args, **kw)",
    ),
    "flops_per_token": (
        ("attention", "mlp"),
        "",
        f"def flops_per_token(self, *args):\n        {CALL}return super().flops_per_token(*args)",
    ),
    "backward": (
        ("norm", "mlp"),
        "def hook(gradient):\n    done = deed()\n    return None if done is KEEP else done",
        "def forward(self, *args, **kw):\n        y = super().forward(*args, **kw)\n"
        "        if y.requires_grad: y.register_hook(hook)\n        return y",
    ),
    "state loading": (
        PARTS,
        "",
        "def _load_from_state_dict(self, *args):\n        deed()\n"
        "        super()._load_from_state_dict(*args)",
    ),
}
VALUES = {
    f"returns {text}": f"return {text}"
    for text in (
        *(
            "None",
            "3",
            "-1",
            "'x'",
            "float('nan')",
            "float('inf')",
            "object()",
            "[]",
            "{}",
            "{'x': 1}",
        ),
        *(
            "{1: 'x'}",
            "{'x': 'y'}",
            "torch.zeros(3)",
            "torch.full((), float('nan'))",
            "torch",
            "True",
        ),
        *("2**70", "1j", "'x\\n' * 1000", "(1, 2)", "iter([])", "torch.nn.Identity()"),
    )
}
DEEDS = RAISED | ENDS | CHANGES | HARMLESS | VALUES
RETURNING = ("check", "why_unsupported", "make", "forward", "flops_per_token", "backward")
VALID = {  # what a place may return
    *(("check", f"returns {text}") for text in ("{}",)),
    *(("why_unsupported", f"returns {text}") for text in ("None",)),
    *(("flops_per_token", f"returns {text}") for text in ("3", "True", "2**70")),
    *(("backward", f"returns {text}") for text in ("None",)),
}
COMMANDS = {
    "list": ["list", "study.toml", "--json"],
    "check": ["check", "study.toml"],
    "check file": ["check", "own/AXIS/mine.py"],
    "dry run": ["run", "study.toml", "--dry-run"],
}
CASES = [
    f"{command}: {axis} {place}: {deed}"
    for command in COMMANDS
    for place, (axes, *_) in PLACES.items()
    for axis in axes
    for deed in DEEDS
    if place in RETURNING or deed not in VALUES
]


def write(folder: Path, axis: str, place: str, deed: str) -> None:
    """Write a study and the file of its variant."""
    _, module, body = PLACES[place]
    base, _, name = BASES[axis].partition(" import ")
    text = (
        FILE.replace("IMPORTS", IMPORTS)
        .replace("AXIS", axis)
        .replace("BASE", f"{base} import {name}")
    )
    text = text.replace("MODULE", module).replace("BODY", body)
    text = text.replace("DEED", DEEDS[deed]).replace("REACHED", str(folder / "reached"))
    file = folder / f"own/{axis}/mine.py"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    (folder / "text.txt").write_text("To be, or not to be, that is the question.\n" * 20)
    (folder / "study.toml").write_text(STUDY.replace("AXIS", axis))


def run(folder: Path, arguments: list[str]) -> tuple[int, str, str]:
    """Run a command in a child; return its exit code, stdout and stderr."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.chdir(folder)
            for fd, name in ((1, "stdout"), (2, "stderr")):
                os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
            os.environ["ABLATIONS_CACHE"] = str(folder.parent / "cache")
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - until the end
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
            sys.argv = ["harness", *arguments]
            isolation.LIMIT_S = 30.0
            isolation.END_S = 1.0
            signal.signal(signal.SIGINT, signal.default_int_handler)
            app.main()
        except SystemExit as end:
            os._exit(end.code if isinstance(end.code, int) else 0 if end.code is None else 1)
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        os._exit(99)
    deadline = time.monotonic() + LIMIT_S
    ended = 0
    while not ended and time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # what the variant has started
    if not ended:
        os.waitpid(pid, 0)
        pytest.fail(f"{arguments} does not end: {(folder / 'stderr').read_text()[-2000:]}")
    read = [(folder / name).read_text(errors="replace") for name in ("stdout", "stderr")]
    return os.waitstatus_to_exitcode(status), *read


@pytest.mark.parametrize("case", sample(CASES, n=3))
def test_a_deed_of_a_variant_is_named_or_harmless(tmp_path, case):
    command, rest, deed = case.split(": ", 2)
    axis, place = rest.split(" ", 1)
    folder = tmp_path / "here"
    folder.mkdir()
    write(folder, axis, place, deed)
    arguments = [part.replace("AXIS", axis) for part in COMMANDS[command]]
    code, out, err = run(folder, arguments)
    is_reached = (folder / "reached").exists()
    is_harmless = not is_reached or deed in HARMLESS or (place, deed) in VALID
    # `list` predicts no memory of a model that fails, and trains nothing.
    is_predicted = command == "list" and place in ("forward", "backward")
    is_predicted = is_predicted and deed not in ENDS | CHANGES
    shown = err if deed not in HARMLESS else err[-3000:]
    assert "Traceback" not in err, (case, shown)
    if code == 0:
        assert is_harmless or is_predicted, (case, "is accepted", out[-500:], shown)
        assert out, (case, "prints nothing")
        return
    assert code in (2, 130) and (code == 2 or deed in ("KeyboardInterrupt",)), (case, code, shown)
    if is_harmless:
        # These may be refused, as what follows them shows.
        assert deed in HARMLESS or (place, deed) in VALID, (case, shown)
    if code == 2:
        assert "mine" in err + out or "axes." in err, (case, shown)
        assert deed in HARMLESS or len(err) < 20_000, (case, len(err))


def test_cases_cover_every_place():
    """Without cases, the test of deeds would pass without a check."""
    assert len(CASES) > 5_000 and len(DEEDS) > 80


def test_an_exit_of_a_variant_is_no_success(tmp_path):
    """The command would end with exit code 0, and print nothing."""
    write(tmp_path, "mlp", "import", "os._exit(0)")
    code, _, err = run(tmp_path, ["list", "study.toml"])
    file = tmp_path / "own/mlp/mine.py"
    assert code == 2 and f"{file}:11: the import of {file} ended the process (exit code 0)" in err


@pytest.mark.distributed
def test_a_variant_that_trains_under_a_watch_is_done(tmp_path, monkeypatch):
    """The command runs in a child, and its exit code is the command's.

    The process of the tests may have started a fork server, which a process forked from it cannot
    use.
    """
    monkeypatch.setenv("ABLATIONS_CACHE", str(tmp_path / "cache"))
    write(tmp_path, "mlp", "import", "seeds")
    command = [sys.executable, "-m", "harness", "run", "study.toml"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert [run.status.status for run in Store(tmp_path / "results").runs("s")] == ["done"]
