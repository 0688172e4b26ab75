"""A results folder to tamper with, and a stand-in for training that makes `run` cheap.

The stand-in reads and writes the files of a run as training does, with values that follow from the
spec: a run that resumes, that starts again, or that was left alone has the same result.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pytest
from hostile import STUDY, call
from planted_runs import PROBES

from harness.config import load
from harness.errors import ClaimLost, StoreError
from harness.model.weights import atomic_folder
from harness.provenance.archive import archive_code
from harness.results.checkpoints import STATE, drop_states, n_steps
from harness.results.files import read_lines, write_json
from harness.results.owner import this_process
from harness.results.records import (
    Environment,
    EvalRecord,
    Owner,
    ProbeResults,
    RunSpec,
    StateChecksums,
    StepRecord,
    Submission,
)
from harness.results.run import Run
from harness.results.store import Store
from harness.training.checkpointing import (
    CHECKSUMS,
    Checkpoints,
    _checksums,
    begins_as_saved,
    file_starts,
    resumable_checkpoints,
    saved_curves,
)
from harness.training.resume import _is_evaluated, _n_consecutive

TEXT = "To be, or not to be, that is the question.\n" * 40
LAUNCH = 'eval_every = 2\n[launch]\nkeep_checkpoints = "full"\n[axes]'
STATES = ("done", "failed", "interrupted", "elsewhere")
VICTIM = ("learned", 1)  # entry and seed of the run that is tampered with
STEPS = 4
AT = "2026-01-01T00:00:00+00:00"
# A process that lived on another machine.
OTHER_OWNER = Owner(host="other", boot_id="other", pid_namespace="pid:[1]", pid=1, pid_started=1.0)


def value_of(spec: RunSpec, step: int) -> float:
    """Return a loss that follows from all that determines the result of a run."""
    content = (spec.entry, spec.seed, spec.train.lr, step)
    digest = hashlib.sha256(repr(content).encode()).digest()
    return 1 + int.from_bytes(digest[:4], "big") / 2**32


class Died(Exception):
    """The stand-in ends like a process that is killed."""


@dataclass
class Training:
    """Trains in place of `agent.start`; run `run_id` fails or dies after two steps if named."""

    fails: str | None = None
    dies: str | None = None
    started: list[str] = field(default_factory=list)

    def __call__(self, run: Run, launch: object, *_: object, **options: object) -> None:
        run.mark_running()
        run = Run(run.path, run.claim_number)  # ranks read the spec that is stored now
        self.started.append(run.run_id)
        try:
            self._train(run)
        except (ClaimLost, Died):
            return
        except Exception as error:  # as a rank records it, and as the launcher does
            with contextlib.suppress(StoreError):
                run.finish("failed", "error", f"{type(error).__name__}: {error}")
        if run.status.status == "running":
            run.finish("failed", "error", "its processes ended without recording a result")

    def _train(self, run: Run) -> None:
        spec = run.spec
        log = run.open_log()
        os.write(log, b"trains\n")
        os.close(log)
        run.write_env(Environment())
        steps = read_lines(run.steps_path(0), StepRecord, until_damaged=True)
        evals = read_lines(run.evals_path, EvalRecord, until_damaged=True)
        n_recorded = _n_consecutive(steps)
        usable = [
            n
            for n, folder in ((n_steps(path), path) for path in resumable_checkpoints(run))
            if n <= n_recorded
            and _is_evaluated(evals, n, spec)
            and begins_as_saved(run, 0, saved_curves(folder))
        ]
        n_done = max(usable, default=0)
        run.truncate_steps(0, n_done)
        run.truncate_evals(n_done // 2 + 1 if n_done else 0)
        checkpoints = _checkpoints(run)
        losses = {line.step: line.val_loss for line in evals if line.step <= n_done}
        checkpoints.restore_links(n_done, losses)
        lines = run.steps_file(0)
        evaluations = run.eval_file()
        for step in range(n_done, STEPS):
            if step == 0:
                evaluations.append(_evaluation(spec, 0))
            lines.append(_step(spec, step, 0.1 + 0.001 * len(self.started)))
            if step % 2 == 1:
                evaluations.append(_evaluation(spec, step + 1))
                self._save(run, checkpoints, step + 1)
            if step == 2 and run.run_id == self.fails:
                raise RuntimeError("the variant fails")
            if step == 2 and run.run_id == self.dies:
                raise Died
        lines.close()
        evaluations.close()
        run.write_probes(ProbeResults.model_validate(PROBES | {"checksums": run.checksums()}))
        run.finish("done")
        drop_states(run, spec.launch.keep_checkpoints)

    def _save(self, run: Run, checkpoints: Checkpoints, step: int) -> None:
        checkpoints._remove_unlinked()
        with atomic_folder(run.checkpoints / f"step-{step}") as folder:
            content = f"{value_of(run.spec, step)}".encode()
            (folder / "model.safetensors").write_bytes(content)
            (folder / STATE).mkdir()
            for name in (".metadata", "__0_0.distcp"):
                (folder / STATE / name).write_bytes(content)
            curves = file_starts(run.curve_sizes(0))
            checksums = StateChecksums(crc32=_checksums(folder / STATE), curves=curves)
            write_json(folder / STATE / CHECKSUMS, checksums)
            run.check_claim()
        checkpoints._link(step, value_of(run.spec, step))


def _step(spec: RunSpec, step: int, step_s: float) -> StepRecord:
    return StepRecord(
        step=step,
        loss=value_of(spec, 100 + step),
        step_s=step_s,
        tokens=128,
        grad_norm=1.0,
        lr=1e-3,
        warmup=False,
    )


def _evaluation(spec: RunSpec, step: int) -> EvalRecord:
    loss = value_of(spec, step)
    return EvalRecord(step=step, val_loss=loss, bits_per_byte=loss, train_s=0.1 * step, eval_s=0.1)


def _checkpoints(run: Run) -> Checkpoints:
    """Return what keeps the checkpoints of a run, without a model."""
    checkpoints = Checkpoints.__new__(Checkpoints)
    vars(checkpoints).update(_run=run, _newest_step=0, _best_step=0, _lowest_loss=float("inf"))
    return checkpoints


@dataclass(frozen=True)
class Tampered:
    """A folder with a study, its results in each state, and a folder outside of the results."""

    folder: Path
    training: Training

    @property
    def outside(self) -> Path:
        """A folder that no command may change."""
        return self.folder / "outside"

    @property
    def store(self) -> Store:
        """The results that are tampered with."""
        return Store(self.folder / "results")

    def run(self, positional: str, seed: int, store: Store | None = None) -> Run:
        """Return the run of an entry."""
        name = f"{positional}-mha-single-s{seed}-"
        paths = ((store or self.store).root / "s").glob(f"{name}*")
        return Run(next(path for path in paths if path.name.startswith(name)))

    @property
    def victim_id(self) -> str:
        """The id of the run that is tampered with."""
        return self.run(*VICTIM, Store(self.folder / "done")).run_id

    @property
    def victim(self) -> Run:
        """The run that is tampered with."""
        return self.store.run("s", self.victim_id)

    def restore(self, state: str) -> None:
        """Replace the results by those in which the victim has a state."""
        shutil.rmtree(self.folder / "results", ignore_errors=True)
        shutil.copytree(self.folder / state, self.folder / "results", symlinks=True)
        if state == "elsewhere":
            os.utime(self.victim.claims / "7.json")
        self.training.started[:] = ["earlier"] * 9  # other times than those of the template

    def call(self, *command: object) -> tuple[int, str]:
        """Return the exit code of a command and all that it printed."""
        code, out, err = call(*command, "--results", self.store.root)
        return code, out + err


@contextlib.contextmanager
def tampered_results(folder: Path) -> Iterator[Tampered]:
    """Yield a folder of results in which each command runs in this process, without training."""
    training = Training()
    results = Tampered(folder, training)
    (folder / "text.txt").write_text(TEXT)
    study = folder / "study.toml"
    study.write_text(STUDY.replace("[axes]", LAUNCH, 1))
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setenv("ABLATIONS_CACHE", str(folder / "cache"))
        patch.setattr("os.fsync", lambda fd: None)
        planned = load(study)
        patch.setattr("harness.cli.run.load_study", lambda *_: planned)
        patch.setattr("harness.preflight.check_study", lambda planned, *_: planned)
        patch.setattr("harness.cli.run._check_machine", lambda _: None)
        patch.setattr("harness.launch.agent.start", training)
        patch.setattr("harness.launch.fork_server.start_fork_server", lambda: None)
        patch.setattr("harness.launch.local.OTHERS_INTERVAL_S", 0.02)
        patch.setattr("harness.launch.local.POLL_INTERVAL_S", 0.02)
        patch.setattr("harness.results.files.TORN_AFTER_S", 0.0)
        patch.setattr("harness.results.owner.SILENCE_S", 0.2)
        patch.setattr("harness.launch.one_run.change_since_planned", lambda *_: None)
        patch.setattr("harness.analysis.dataset._changes", lambda *_: {})
        patch.setattr("harness.report.first_screen", lambda *_: "")
        for state in STATES:
            archive_code(Store(folder / state).archive("s"), planned.codes())
            _prepare(results, state)
        shutil.copytree(folder / "done", results.outside, symlinks=True)
        for name in ("1.json", "2.released", "3.0123456789abcdef.tmp"):
            (results.outside / name).write_text("{}")
        yield results


def _prepare(results: Tampered, state: str) -> None:
    """Write the results in which the victim has a state; one other run is done, two are to do."""
    store = Store(results.folder / state)
    ids = [spec.run_id for spec in load(results.folder / "study.toml").runs]
    other, victim = sorted(run_id for run_id in ids if run_id.startswith("learned-"))
    results.training.fails = victim if state == "failed" else None
    results.training.dies = victim if state in ("interrupted", "elsewhere") else None
    for run_id in (other, victim):
        call("run", "study.toml", "--run", run_id, "--results", store.root)
    results.training.fails = None
    results.training.dies = None
    if state in ("interrupted", "elsewhere"):
        run = store.run("s", victim)
        process = this_process()
        dead = process.model_copy(update={"pid_started": process.pid_started - 1000})
        owner = dead if state == "interrupted" else OTHER_OWNER
        shutil.rmtree(run.claims)
        run.claims.mkdir()
        (run.claims / "7.json").write_bytes(orjson.dumps(owner.model_dump()))
        status = run._stored_status.model_copy(
            update=owner.model_dump(exclude={"job_restarts"}) | {"claim": 7}
        )
        write_json(run.path / "status.json", status)
    for path in sorted((store.root / "s/archive/files").iterdir())[3:]:
        path.unlink()  # which makes copies of the folder slow
    store.record_submission("s", Submission(id="1", name="s-1", elements=[[victim]], at=AT))
    timing_run = Run(store.root / "s/.timing" / victim)
    timing_run.path.parent.mkdir()
    shutil.copytree(store.run("s", other).path, timing_run.path, symlinks=True)
    (store.root / "s/.outdated/earlier").mkdir(parents=True)
    (store.root / "s/.outdated/earlier/eval.jsonl").write_text("earlier\n")
