"""Without these, a command could hang, print a traceback or lie in an unusual environment.

A sample is tried; `FUZZ=1000` tries every command in every environment.
"""

import contextlib
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from synthetic_results import SyntheticStudy

from harness.results.store import Store

pytestmark = pytest.mark.distributed

N = int(os.environ.get("FUZZ", "5"))
LIMIT_S = 300  # of a test machine that is busy; each takes seconds by itself
STUDY = """
study = { name = "s", seeds = [0] }
model = { n_layer = 1, n_head = 2, n_embd = 16, seq_len = 16 }
data = { corpus = "text.txt" }
train = { steps = 2, tokens_per_step = 64, micro_batch_size = 2, eval_tokens = 64, device = "cpu" }
axes = { positional = ["learned"], parallelism = [{ variant = "ddp", nproc = 2 }] }
"""
RESULTS = ["--results", "{here}/results"]
COMMANDS = {
    "status": ["status", *RESULTS],
    "results": ["results", "list", *RESULTS],
    "plan": ["plan", "tiny", "--effect-size", "0.1", *RESULTS],
    "report": ["report", "tiny", *RESULTS, "--out", "{here}/out"],
    "export": ["export", "tiny", "--to", "csv", *RESULTS, "--out", "{here}/out"],
    "list": ["list", "{here}/study.toml"],
    "dry run": ["run", "{here}/study.toml", "--dry-run", "--results", "{here}/new"],
    "run": ["run", "{here}/study.toml", "--results", "{here}/new"],
}
CHEAP = ("status", "results")  # they do not load torch
WRITERS = ("report", "export", "run")


@dataclass(frozen=True)
class Environment:
    """A bash script that starts the command "$@" in an environment.

    `ends` are the exit code and a part of stderr by command, otherwise 0. The environment is
    possible on a machine on which the script `needs` succeeds.
    """

    script: str
    ends: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    needs: str = "true"


def all_end(code: int, text: str = "", but: Mapping[str, tuple[int, str]] | None = None):
    return dict.fromkeys(COMMANDS, (code, text)) | dict(but or {})


def writers_end(code: int, text: str):
    return dict.fromkeys(WRITERS, (code, text))


def all_writers_end(code: int, text: str):
    """Also those that write the cache of tokens."""
    readers_of_text = dict.fromkeys(["list", "dry run", "run"], (code, "ABLATIONS_CACHE"))
    return writers_end(code, text) | readers_of_text


NOBODY = (
    "setpriv --reuid=65534 --regid=65534 --clear-groups "  # it may read all, as Python's files
    "--inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search "
    "--bounding-set=-all,+dac_read_search"
)
LONE_USER = NOBODY.replace("65534", "65533")  # other tests run no processes of this one
MOUNT = "unshare --mount bash -c"
NET = "unshare --net bash -c 'ip link set lo up"
ASCII = "env LC_ALL=C LANG=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0"
FULL = "No space left on device"
ENVIRONMENTS = {
    "closed stdin": Environment('"$@" <&-'),
    "closed stdout": Environment('"$@" >&-'),
    "closed stderr": Environment('"$@" 2>&-'),
    "closed streams": Environment('"$@" <&- >&- 2>&-'),
    "stdout that nobody reads": Environment('set -o pipefail; "$@" | true', all_end(141)),
    "stderr that nobody reads": Environment(
        'set -o pipefail; "$@" 2>&1 >/dev/null | true', {"run": (141, ""), "dry run": (141, "")}
    ),
    "full stdout": Environment(
        '"$@" >/dev/full', all_end(2, f"{FULL}: 'stdout'", {"run": (0, FULL)})
    ),
    "full stderr": Environment('"$@" 2>/dev/full'),
    "64 descriptors": Environment('ulimit -n 64; "$@"'),
    "soft limit of 20 descriptors": Environment('ulimit -S -n 20; "$@"'),
    "40 descriptors": Environment(
        'ulimit -n 40; "$@"', dict.fromkeys(["run", "dry run"], (2, "`ulimit -n"))
    ),
    "20 descriptors": Environment('ulimit -n 20; "$@"', all_end(2, "`ulimit -n")),
    "no HOME": Environment('env -u HOME "$@"'),
    "no variables": Environment('env -i ABLATIONS_CACHE="$ABLATIONS_CACHE" "$@"'),
    "ASCII locale": Environment(f'{ASCII} "$@"'),
    "umask 077": Environment('umask 077; "$@"'),
    "other folder": Environment('mkdir other; cd other; "$@"'),
    "removed folder": Environment(
        'mkdir gone; cd gone; rmdir ../gone; "$@"',
        all_end(2, "the folder in which this command runs was removed"),
    ),
    "ignored signals": Environment("trap '' INT TERM HUP QUIT USR1; \"$@\""),
    "missing TMPDIR": Environment('TMPDIR=/nowhere "$@"'),
    "other user": Environment(f'chmod -R a+rwX .; {NOBODY} "$@"', needs=f"{NOBODY} true"),
    "folder of another user": Environment(
        f'{NOBODY} "$@"', all_writers_end(2, "Permission denied"), needs=f"{NOBODY} true"
    ),
    "read-only file system": Environment(
        f'{MOUNT} \'mount --bind . . && mount -o remount,ro,bind . && cd "$PWD" && "$@"\' - "$@"',
        all_writers_end(2, "Read-only file system"),
        needs=f"{MOUNT} 'mount --bind /tmp /tmp'",
    ),
    "full file system": Environment(
        f"{MOUNT} 'for f in new out; do mkdir $f; mount -t tmpfs -o size=8k none $f; done; "
        '"$@"\' - "$@"',
        writers_end(2, FULL),
        needs=f"{MOUNT} 'mount -t tmpfs none /tmp'",
    ),
    "files of 1 KiB": Environment('ulimit -f 1; "$@"', all_writers_end(2, "File too large")),
    "no shared memory": Environment(
        f"{MOUNT} 'mount --bind /var/empty /dev/shm && mount -o remount,ro,bind /dev/shm && "
        '"$@"\' - "$@"',
        needs=f"mkdir -p /var/empty && {MOUNT} 'mount --bind /var/empty /dev/shm'",
    ),
    "too few processes": Environment(
        f'chmod -R a+rwX .; {LONE_USER} bash -c \'ulimit -u 6; "$@"\' - "$@"',
        {"run": (2, "`ulimit -u`")},
        needs=f"{LONE_USER} true",
    ),
    "no loopback": Environment(
        'unshare --net "$@"', {"run": (2, "`ip link set lo up`")}, needs="unshare --net true"
    ),
    "loopback of IPv6 only": Environment(
        f'{NET}; ip addr del 127.0.0.1/8 dev lo; "$@"\' - "$@"',
        needs=f"{NET}; ip addr del 127.0.0.1/8 dev lo && ip addr show lo | grep -q ::1'",
    ),
    "localhost without an address": Environment(
        "unshare --net --mount bash -c 'ip link set lo up; for f in hosts resolv.conf; do "
        'mount --bind /dev/null /etc/$f; done; "$@"\' - "$@"',
        needs=f"{NET}' && {MOUNT} 'mount --bind /dev/null /etc/hosts'",
    ),
}


def sample() -> list[tuple[str, str]]:
    """Return so many environments and commands; each process of the tests collects the same."""
    if len(ENVIRONMENTS) * len(COMMANDS) <= N:
        return [(name, command) for name in ENVIRONMENTS for command in COMMANDS]
    names = random.Random(0).sample(sorted(ENVIRONMENTS), min(N, len(ENVIRONMENTS)))
    return [(name, CHEAP[number % 2]) for number, name in enumerate(names)]


@cache
def is_possible(script: str) -> bool:
    return subprocess.run(["bash", "-c", script], capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """Return a folder with a study file, and results of another study; every user may enter it."""
    root = Path(tempfile.mkdtemp(prefix="ablations-"))
    root.chmod(0o755)
    folder = root / "template"
    folder.mkdir()
    (folder / "study.toml").write_text(STUDY)
    (folder / "text.txt").write_text("To be, or not to be, that is the question.\n" * 400)
    axes = {"positional": ["learned"], "attention": ["mha", "gqa2"], "parallelism": ["single"]}
    SyntheticStudy(folder / "results", axes=axes).write()
    yield folder
    shutil.rmtree(root)


@pytest.fixture
def call(template):
    """Return a function that runs a command in an environment, in a folder of its own."""

    def run(environment: Environment, arguments: list[str]) -> tuple[int, str, Path]:
        folder = Path(tempfile.mkdtemp(dir=template.parent))
        shutil.copytree(template, folder, dirs_exist_ok=True)
        command = [part.replace("{here}", str(folder)) for part in arguments]
        with open(folder / "stderr", "wb") as err:  # a pipe would wait for every process
            process = subprocess.Popen(
                ["bash", "-c", environment.script, "-", sys.executable, "-m", "harness", *command],
                cwd=folder,
                env=os.environ | {"ABLATIONS_CACHE": str(folder / "cache")},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
                start_new_session=True,
            )
            try:
                code = process.wait(LIMIT_S)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        return code, (folder / "stderr").read_text(errors="replace"), folder

    return run


@pytest.mark.parametrize(("name", "command"), sample())
def test_a_command_works_or_says_what_is_missing(call, name, command):
    environment = ENVIRONMENTS[name]
    if not is_possible(environment.needs):
        pytest.skip(f"not possible here: {shlex.quote(environment.needs)}")
    code, text = environment.ends.get(command, (0, ""))
    found, err, folder = call(environment, COMMANDS[command])
    assert found == code and text in err and "Traceback" not in err, (found, err)
    if command == "run":
        statuses = [run.status.status for run in Store(folder / "new").runs("s")]
        assert "running" not in statuses
        assert code != 0 or statuses == ["done"]


def test_a_run_trains_in_the_worst_environment_that_it_bears(call):
    """All that leaves a run possible, at once: one process for many environments."""
    environment = Environment(
        "umask 077; ulimit -n 64; trap '' INT HUP; "
        f'{ASCII.replace("env", "env -i")} "$@" <&- >&- 2>&-'
    )
    code, _, folder = call(environment, COMMANDS["run"])
    (run,) = Store(folder / "new").runs("s")
    assert code == 0 and run.status.status == "done"
