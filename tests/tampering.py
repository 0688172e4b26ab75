"""What may have happened to a results folder: each path replaced, and edits that stay readable."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from hostile import DAMAGES
from tampered_results import OTHER_OWNER, STATES, Tampered

from harness.results.owner import this_process

Tamper = Callable[[Tampered, Path], None]

RUN = "s/RUN/"
NEWEST = RUN + "checkpoint/NEWEST/"
RUN_FILES = (
    *(f"{RUN}{name}" for name in ("spec.json", "status.json", "env.json", "probes.json")),
    *(f"{RUN}{name}" for name in ("eval.jsonl", "steps.rank0.jsonl", "log.txt")),
    *(f"{NEWEST}{name}" for name in ("model.safetensors", "state/.metadata")),
    *(f"{NEWEST}{name}" for name in ("state/__0_0.distcp", "state/checksums.json")),
    "s/.claims/RUN/CLAIM",
    "s/.timing/RUN/status.json",
    "s/.timing/RUN/spec.json",
)
STUDY_FILES = (
    "s/launches.jsonl",
    "s/submissions/1.json",
    "s/archive/code/FIRST",
    "s/archive/files/FIRST",
)
RUN_FOLDERS = (
    "s/RUN",
    *(f"{RUN}{name}" for name in ("checkpoint", "checkpoint/NEWEST", "checkpoint/NEWEST/state")),
    *(f"{RUN}checkpoint/{name}" for name in ("newest", "best")),
    "s/.claims/RUN",
    "s/.timing/RUN",
)
STUDY_FOLDERS = (
    *("s/.claims", "s/.timing", "s/.outdated", "s/submissions"),
    *("s/archive", "s/archive/code", "s/archive/files"),
)


# -- what is done to a path -----------------------------------------------------------------------


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _relink(results: Tampered, path: Path) -> None:
    """Replace a path by a link to a copy of it outside of the results."""
    counterpart = results.outside / path.relative_to(results.store.root)
    if not counterpart.exists():  # the done run has another newest checkpoint
        counterpart = results.outside / "s" / results.victim_id / "checkpoint/step-4"
        if path.name == "state" or path.parent.name == "state":
            counterpart = counterpart / path.relative_to(results.victim.checkpoints / "step-2")
    if not counterpart.exists():
        counterpart = results.outside
    _remove(path)
    path.symlink_to(counterpart)


def _of_another_run(results: Tampered, path: Path) -> None:
    """Replace a file or a folder by that of another run that is done."""
    other = results.run("learned", 0)
    source = Path(str(path).replace(results.victim_id, other.run_id).replace("step-2", "step-4"))
    if path.parent.name == results.victim_id and path.parent.parent.name == ".claims":
        source = next(source.parent.iterdir())
    if source == path or not os.path.lexists(source):
        source = other.path if path.is_dir() else other.path / "eval.jsonl"
    _remove(path)
    if source.is_dir():
        shutil.copytree(source, path, symlinks=True)
    else:
        shutil.copyfile(source, path)


def _replaced(make: Callable[[Path], object]) -> Tamper:
    def tamper(results: Tampered, path: Path) -> None:
        _remove(path)
        make(path)

    return tamper


def _damaged(name: str) -> Tamper:
    return lambda results, path: DAMAGES[name](path)


def _dated(seconds: float) -> Tamper:
    def tamper(results: Tampered, path: Path) -> None:
        os.utime(path, (seconds, seconds))

    return tamper


OF_FILES: dict[str, Tamper] = {
    **{name: _damaged(name) for name in DAMAGES},
    "link elsewhere": _relink,
    "of another run": _of_another_run,
    "far future": _dated(2**33),
    "before the epoch": _dated(-(2**31)),
}
OF_FOLDERS: dict[str, Tamper] = {
    "missing": _replaced(lambda path: None),
    "empty": _replaced(lambda path: path.mkdir()),
    "file": _replaced(lambda path: path.write_bytes(b"x")),
    "pipe": _replaced(os.mkfifo),
    "loop": _replaced(lambda path: path.symlink_to(path.name)),
    "dangling link": _replaced(lambda path: path.symlink_to("nowhere")),
    "device": _replaced(lambda path: path.symlink_to("/dev/ptmx")),
    "link elsewhere": _relink,
    "link to the whole": lambda results, path: _replaced(
        lambda path: path.symlink_to(results.outside)
    )(results, path),
    "of another run": _of_another_run,
}


# -- edits that keep a file readable --------------------------------------------------------------


def _edit(name: str, **values: object) -> Callable[[Tampered], None]:
    def tamper(results: Tampered) -> None:
        path = results.victim.path / name
        content = json.loads(path.read_text())
        for key, value in values.items():
            table = content
            *tables, last = key.split("__")
            for inner in tables:
                table = table[inner]
            table[last] = value
        path.write_text(json.dumps(content))

    return tamper


def _edit_lines(name: str, **values: object) -> Callable[[Tampered], None]:
    def tamper(results: Tampered) -> None:
        path = results.victim.path / name
        lines = [json.loads(line) | values for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    return tamper


def _claims(**files: object) -> Callable[[Tampered], None]:
    """Replace the claims of the victim by files of these names, or folders if None."""

    def tamper(results: Tampered) -> None:
        folder = results.victim.claims
        shutil.rmtree(folder)
        folder.mkdir()
        for name, owner in files.items():
            path = folder / name
            if owner is None:
                path.mkdir()
            elif owner == "link":
                path.symlink_to(results.outside / "1.json")
            else:
                path.write_text(json.dumps(owner))

    return tamper


HERE = this_process()
DEAD = HERE.model_copy(update={"pid": 2**22 + 1}).model_dump()
OTHER = OTHER_OWNER.model_dump()
RUNNING = {
    "status": "running",
    "host": HERE.host,
    "pid": os.getppid(),
    "pid_started": 1.0,
    "boot_id": HERE.boot_id,
    "pid_namespace": HERE.pid_namespace,
    "ended_at": None,
}
EDITS: dict[str, Callable[[Tampered], None]] = {
    "says done": _edit("status.json", status="done", reason=None, message=None),
    "says pending": _edit("status.json", status="pending", reason=None, message=None),
    "says failed": _edit("status.json", status="failed", reason="error", message="x"),
    "says lost": _edit("status.json", status="failed", reason="lost", message="x"),
    "says diverged": _edit("status.json", status="failed", reason="nan", message="x"),
    "says interrupted": _edit("status.json", status="interrupted", reason="killed", message="x"),
    "says running": _edit("status.json", **RUNNING),
    "says running without a claim": _edit("status.json", **RUNNING | {"claim": None}),
    "says running elsewhere": _edit(
        "status.json", **RUNNING | {"boot_id": "x", "host": "x", "claim": None}
    ),
    "says running with a late claim": _edit("status.json", **RUNNING | {"claim": 2**53}),
    "many attempts": _edit("status.json", attempts=2**53),
    "ended before the epoch": _edit("status.json", ended_at="0001-01-01T00:00:00+00:00"),
    "started in the future": _edit("status.json", started_at="9999-12-31T23:59:59-23:59"),
    "steps edited": _edit("spec.json", train__steps=2),
    "more steps": _edit("spec.json", train__steps=400),
    "seed edited": _edit("spec.json", seed=5),
    "rate edited": _edit("spec.json", train__lr=0.5),
    "model edited": _edit("spec.json", model__n_layer=9),
    "corpus edited": _edit("spec.json", data__sha256="0" * 64),
    "run id edited": _edit("spec.json", run_id="other"),
    "study edited": _edit("spec.json", study="../../outside"),
    "code edited": _edit("spec.json", code_hash="0" * 64),
    "code named by a path": _edit("spec.json", code_hash="../../../outside/x"),
    "code unknown": _edit("spec.json", code_hash=None),
    "ranks edited": _edit("spec.json", launch__world_size=3),
    "kept edited": _edit("spec.json", launch__keep_checkpoints="none"),
    "negative times": _edit_lines("steps.rank0.jsonl", step_s=-1.0),
    "huge times": _edit_lines("steps.rank0.jsonl", step_s=1e99),
    "steps twice": _edit_lines("steps.rank0.jsonl", step=0),
    "huge steps": _edit_lines("steps.rank0.jsonl", step=2**53),
    "evaluations twice": _edit_lines("eval.jsonl", step=0),
    "negative evaluations": _edit_lines("eval.jsonl", train_s=-1.0),
    "huge losses": _edit_lines("eval.jsonl", val_loss=1e300),
    "no losses": _edit_lines("eval.jsonl", val_loss=None),
    "claim: huge": _claims(**{f"{10**200}.json": DEAD}),
    "claim: longest name": _claims(**{f"{'9' * 250}.json": DEAD}),
    "claim: largest number": _claims(**{f"{2**53}.released": DEAD}),
    "claim: released and held": _claims(**{"5.json": DEAD, "5.released": DEAD}),
    "claim: gaps": _claims(**{"3.released": DEAD, "90.json": DEAD, "41.json": DEAD}),
    "claim: other names": _claims(
        **{"x.json": DEAD, "-1.json": DEAD, "1.5.json": DEAD, ".json": DEAD, "٣.json": DEAD}
    ),
    "claim: leading zeros": _claims(**{"007.json": DEAD, "0.json": DEAD}),
    "claim: two suffixes": _claims(**{"7.z.json": DEAD, "8.a.released": DEAD}),
    "claim: folder": _claims(**{"8.json": None}),
    "claim: released folder": _claims(**{"8.released": None}),
    "claim: link": _claims(**{"8.json": "link"}),
    "claim: wrong owner": _claims(**{"8.json": OTHER}),
    "claim: this process": _claims(**{"8.json": HERE.model_dump()}),
    "claim: owner in text": _claims(**{"8.json": DEAD | {"pid": "1"}}),
    "claim: owner negative": _claims(**{"8.json": DEAD | {"pid": -1}}),
    "claim: owner group": _claims(**{"8.json": DEAD | {"pid": 0}}),
    "claim: owner huge": _claims(**{"8.json": DEAD | {"pid": 2**53, "pid_started": 1e99}}),
    "claim: temporary folder": _claims(**{"1.0123456789abcdef.tmp": None}),
}


def _in_future(name: str) -> Callable[[Tampered], None]:
    def tamper(results: Tampered) -> None:
        EDITS[name](results)
        for path in results.victim.claims.iterdir():
            os.utime(path, (2**33, 2**33))

    return tamper


EDITS |= {
    "claim: heartbeat in the future": _in_future("claim: wrong owner"),
    "claim: unreadable, in the future": _in_future("claim: owner in text"),
}


def _stepped(results: Tampered, name: str, make: Callable[[Path], None]) -> None:
    make(results.victim.checkpoints / name)


def _linked_checkpoint(name: str) -> Callable[[Tampered], None]:
    """Add a link in the folder of the checkpoints that leads to a checkpoint outside."""

    def tamper(results: Tampered) -> None:
        folder = results.victim.checkpoints
        folder.mkdir(exist_ok=True)
        target = results.outside / "s" / results.victim_id / "checkpoint/step-4"
        (folder / name).symlink_to(target)

    return tamper


EDITS |= {
    f"added {name}": _linked_checkpoint(name)
    for name in ("step-3", "step-1", "step-99", "step-x", ".step-3.0123.tmp", "step-٣")
}
EDITS["added file step-9"] = lambda results: (results.victim.path / "checkpoint/step-9").touch()
EDITS["archive entries are files"] = lambda results: (
    [
        _replaced(lambda path: path.mkdir())(results, path)
        for path in (results.store.root / "s/archive/files").iterdir()
    ]
    and None
)


def _case_of_path(place: str, tamper: Tamper) -> Callable[[Tampered], None]:
    def apply(results: Tampered) -> None:
        newest = results.victim.newest_weights.resolve().name
        text = place.replace("RUN", results.victim_id).replace("NEWEST", newest)
        path = results.store.root / text
        if path.name in ("FIRST", "CLAIM"):
            path = next(path.parent.iterdir())
        tamper(results, path)

    return apply


CASES: dict[str, tuple[str, bool, Callable[[Tampered], None]]] = {}
for state in STATES:
    for places, tampers in (
        (RUN_FILES, OF_FILES),
        (STUDY_FILES, OF_FILES),
        (RUN_FOLDERS, OF_FOLDERS),
        (STUDY_FOLDERS, OF_FOLDERS),
    ):
        for place in places:
            if place == f"{RUN}probes.json" and state != "done":
                continue
            for damage, tamper in tampers.items():
                is_of_study = places in (STUDY_FILES, STUDY_FOLDERS)
                case = (state, is_of_study, _case_of_path(place, tamper))
                CASES[f"{state} | {place} | {damage}"] = case
    for edit, apply in EDITS.items():
        CASES[f"{state} | {edit}"] = (state, False, apply)


def snapshot(folder: Path) -> dict[str, object]:
    """Return the content of all files below a folder, by path; links as their targets."""
    found: dict[str, object] = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            key = str(path.relative_to(folder))
            if path.is_symlink():
                found[key] = os.readlink(path)
            elif path.is_file():
                found[key] = path.read_bytes()
            else:
                found[key] = None
    return found
