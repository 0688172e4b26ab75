"""A process that was taken for dead and wakes up would mix its files with its successor's."""

import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import psutil
import pytest
from synthetic_results import SyntheticStudy

from harness.errors import ClaimLost
from harness.results import claims, files, owner
from harness.results import run as run_module
from harness.results.records import (
    Environment,
    EvalRecord,
    ExampleScores,
    ProbeResults,
    RunSpec,
)
from harness.results.run import Run
from harness.results.store import Store

OTHER = {"boot_id": "another kernel", "host": "node-2"}
N_PAUSES = 40


def spec() -> RunSpec:
    study = SyntheticStudy(Path("results"))
    return study.spec("a", ("learned", "mha", "single"), 0, None, "a-s0", 1)


def point(run):
    link = run.temporary(run.newest_checkpoint)
    link.symlink_to("late")
    run.replace(link, run.newest_checkpoint)


# By name, each write that replaces a file.
REPLACED = {
    "finish": lambda run: run.finish("failed", "error", "late"),
    "mark_running": lambda run: run.mark_running(),
    "env": lambda run: run.write_env(Environment(torch="late")),
    "probes": lambda run: run.write_probes(ProbeResults.model_construct()),
    "examples": lambda run: run.write_examples(ExampleScores(tasks=[])),
    "spec": lambda run: run.update_spec(spec()),
    "steps": lambda run: run.truncate_steps(0, 0),
    "evaluations": lambda run: run.truncate_evals(0),
    "checkpoint link": point,
}
OPENED = {
    "steps": lambda run: run.steps_file(0).close(),
    "evaluations": lambda run: run.eval_file().close(),
    "log": lambda run: os.close(run.open_log()),
}
MOVED = {
    "set aside": lambda run: run.set_aside(),
    "copied over": lambda run: run.copy_from(run, spec()),
}
WRITES = REPLACED | {f"open {name}": write for name, write in OPENED.items()} | MOVED


@pytest.fixture
def run(tmp_path):
    run = Store(tmp_path / "results").run("study", "run")
    run.create(spec())
    return run


def begin(run):
    """Claim and start a run, with a line in each file that grows; return the fenced run."""
    claim = run.claim()
    assert claim is not None
    claim.run.mark_running()
    claim.run.write_env(Environment(torch="first"))
    (run.checkpoints / "late").mkdir(parents=True, exist_ok=True)
    for name in ("steps.rank0.jsonl", "eval.jsonl", "log.txt"):
        (run.path / name).write_text("{}\n{}\n")
    return claim.run


def take_over(run):
    """Let the owner of the claim be silent on another host; return the successor's fenced run."""
    (path,) = run.claims.glob("*.json")
    other = owner.this_process().model_copy(update=OTHER)
    path.write_text(other.model_dump_json())
    os.utime(path, (0, 0))
    claim = run.claim()
    assert claim is not None
    claim.run.mark_running()
    return claim.run


def content(run):
    """Return the content of each file of a run, the target of each link, and the siblings."""
    contents = {}
    for path in sorted(run.path.parent.rglob("*")):
        name = str(path.relative_to(run.path.parent))
        if name.startswith((".claims/", ".copy-", ".outdated")):
            continue
        if path.is_symlink():
            contents[name] = os.readlink(path)
        else:
            contents[name] = path.read_bytes() if path.is_file() else None
    return contents


def after(monkeypatch, module, name, action):
    """Let `action` happen right before the next call of a function."""
    function = getattr(module, name)

    def call(*arguments, **options):
        monkeypatch.setattr(module, name, function)
        action()
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, call)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_of_a_lost_claim_changes_nothing(run, write):
    late = begin(run)
    take_over(run)
    before = content(run)
    with pytest.raises(ClaimLost, match="run: claim 1 is lost to another process"):
        write(late)
    assert content(run) == before


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_the_owner_of_the_current_claim_writes(run, write):
    write(begin(run))


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_released_claim_writes_nothing(run, write):
    """As ranks that outlive their launcher."""
    late = begin(run)
    before = content(run)
    claims.Fence(run.claims, 1).release()
    with pytest.raises(ClaimLost):
        write(late)
    assert content(run) == before


MOMENTS = [(name, moment) for name in REPLACED for moment in ("fsync", "replace")]
MOMENTS.remove(("checkpoint link", "fsync"))  # which a link does not need


@pytest.mark.parametrize(("name", "moment"), MOMENTS)
def test_a_write_that_pauses_at_its_end_changes_nothing(run, monkeypatch, name, moment):
    """Between its check and its rename, only the removal of its temporary file can stop it."""
    late = begin(run)
    seen = []
    after(monkeypatch, os, moment, lambda: seen.append((take_over(run), content(run))))
    with pytest.raises(ClaimLost):
        REPLACED[name](late)
    assert content(run) == seen[0][1]


READ_FIRST = [("steps", files, "read_file"), ("evaluations", files, "read_file")]
READ_FIRST += [("mark_running", os, "unlink"), ("mark_running", run_module, "open_file")]


@pytest.mark.parametrize(("name", "module", "function"), READ_FIRST)
def test_a_file_that_a_successor_removes_is_no_error_of_its_own(
    run, monkeypatch, name, module, function
):
    """The write pauses between its check and the first use of the file, which is gone then."""
    late = begin(run)
    if function == "unlink":
        late.finish("failed", "error")
    seen = []

    def succeed():
        late.finish("failed", "error")
        seen.append((take_over(run), content(run)))

    after(monkeypatch, module, function, succeed)
    with pytest.raises(ClaimLost):
        REPLACED[name](late)
    assert content(run) == seen[0][1]


@pytest.mark.parametrize("resumes", [True, False])
@pytest.mark.parametrize("kind", ["steps", "evaluations", "log"])
def test_lines_of_a_lost_claim_are_not_in_the_files(run, kind, resumes):
    """Also if nothing of the file is truncated when the run resumes."""
    late = begin(run)
    record = EvalRecord(step=9, val_loss=1.0, bits_per_byte=1.0, train_s=1.0, eval_s=1.0)
    lines = {"steps": lambda: late.steps_file(0), "evaluations": late.eval_file}
    log = late.open_log()
    file = lines[kind]() if kind in lines else None
    if not resumes:
        late.finish("failed", "error")
    take_over(run)
    before = content(run)
    if file is None:
        os.write(log, b"late")
    else:
        file.append(record)
        file.close()
    os.close(log)
    assert content(run) == before
    assert ("run/log.txt" in before) == resumes


@pytest.mark.parametrize("resumes", [True, False])
@pytest.mark.parametrize("name", OPENED)
def test_a_file_opened_too_late_gets_no_line(run, monkeypatch, name, resumes):
    late = begin(run)
    if not resumes:
        late.finish("failed", "error")
    seen = []
    after(monkeypatch, os, "open", lambda: seen.append((take_over(run), content(run))))
    with pytest.raises(ClaimLost):
        OPENED[name](late)
    monkeypatch.undo()
    found = {file: text for file, text in content(run).items() if text != b""}
    assert found == {file: text for file, text in seen[0][1].items() if text != b""}


# -- processes that are paused --------------------------------------------------------------------


def write_for_ever(run):
    """Write each file again and again, until the claim is lost."""
    repeated = ("env", "probes", "steps", "evaluations", "checkpoint link", "finish")
    try:
        fenced = begin(run)
        lines = fenced.steps_file(1)
        while True:
            for name in repeated:
                REPLACED[name](fenced)
            lines.append(Environment(torch="late"))
    except ClaimLost:
        os._exit(17)
    except BaseException:
        traceback.print_exc()
        os._exit(18)


def test_an_owner_paused_at_any_moment_loses_its_writes(run, monkeypatch):
    """A paused process of another host: where in its writes it was stopped makes no difference."""
    monkeypatch.setattr(owner, "SILENCE_S", 0.02)
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.002)
    monkeypatch.setattr(claims, "POLL_INTERVAL_S", 0.02)
    here = owner.this_process()
    for pause in range(N_PAUSES):
        child = os.fork()
        if child == 0:
            monkeypatch.setattr(owner, "_process", lambda pid: here.model_copy(update=OTHER))
            write_for_ever(run)
        while not (run.path / "probes.json").exists():
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
            time.sleep(0.002)
        time.sleep(0.0007 * pause)
        os.kill(child, signal.SIGSTOP)
        claim = run.claim(wait_s=60)
        assert claim is not None
        claim.run.mark_running()
        before = content(run)
        os.kill(child, signal.SIGCONT)
        _, code = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(code) == 17
        assert content(run) == before, pause
        claim.run.finish("failed", "error")
        (run.path / "probes.json").unlink(missing_ok=True)  # which says that the next has begun
        claim.release()


HOST = ("unshare", "--pid", "--uts", "--fork", "--mount-proc", "--kill-child")
LATE = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from harness.results import claims
claims.HEARTBEAT_S = 0.1
from test_fencing import WRITES, begin
from harness.errors import ClaimLost
from harness.results.run import Run
late = begin(Run(Path(sys.argv[1])))
print("begun", flush=True)
input()
for name, write in WRITES.items():
    try:
        write(late)
        print(name, "was written")
    except ClaimLost:
        pass
"""


def has_namespaces():
    try:
        return subprocess.run([*HOST, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not has_namespaces(), reason="needs unshare, as root")
def test_a_paused_process_of_another_host_writes_nothing(run):
    tests = Path(__file__).parent
    command = [sys.executable, "-c", LATE, run.path, tests, tests.parent]
    process = subprocess.Popen(
        [*HOST, "sh", "-c", 'hostname node-2; exec "$@"', "sh", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    assert run.status.status == "running" and run.status.host == "node-2"
    path = run.claims / "1.json"
    os.utime(path, (0, 0))
    while path.stat().st_mtime == 0:  # until it beats
        time.sleep(0.01)
    assert run.claim() is None
    (late,) = psutil.Process(process.pid).children()
    late.suspend()
    while late.status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)
    os.utime(path, (0, 0))
    claim = run.claim()
    assert claim is not None and claim.number == 2
    assert (run.status.status, run.status.reason) == ("interrupted", "lost")
    assert "no sign of life from node-2" in run.status.message
    claim.run.mark_running()
    before = content(run)
    late.resume()
    assert process.communicate("\n")[0] == "" and process.returncode == 0
    assert content(run) == before and run.status.status == "running"


# -- states of running runs -----------------------------------------------------------------------


def test_a_running_run_is_judged_by_its_claim(run):
    fenced = begin(run)
    assert run.status.status == "running" and run.status.claim == 1
    (path,) = run.claims.glob("*.json")
    other = owner.this_process().model_copy(update=OTHER)
    path.write_text(other.model_dump_json())
    assert Run(run.path).status.status == "running"
    os.utime(path, (0, 0))
    assert run.status.status == "interrupted"
    os.utime(path)
    assert run.status.status == "running"
    fenced.claims.joinpath("1.json").rename(run.claims / "1.released")
    assert run.status.status == "interrupted"


def test_a_claimed_run_is_not_that_of_the_earlier_attempt(run):
    """Its new owner has not started it yet; the earlier one is dead."""
    begin(run)
    take_over_claim = run.claims / "1.json"
    take_over_claim.write_text("")
    os.utime(take_over_claim, (0, 0))
    assert run.claim() is not None
    assert run.status.status == "interrupted"
