"""Keep a run's newest and best checkpoint, written in the background.

Writes are atomic: a crash never corrupts an existing checkpoint.
"""

import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from harness.distributed.lost_peers import is_lost_peer
from harness.distributed.process_group import DistributedContext
from harness.distributed.shards import (
    gather_weights,
    named_local_parameters,
    shard_specs,
    to_dcp_state,
)
from harness.errors import ClaimLost, StoreError
from harness.model.gpt import GPT
from harness.model.weights import Tensors, Weights, atomic_folder, write_weights
from harness.probes.timer import Timer
from harness.results.checkpoints import STATE, n_steps
from harness.results.files import absolute, crc32, read_json, remove, write_json
from harness.results.records import FileStart, RunSpec, StateChecksums
from harness.results.run import Run
from harness.training.averaging import ParameterAverage
from harness.training.staging import copy_to_host
from harness.training.state_reader import StatePlanner, StateReader
from variants.base import ModelShape
from variants.errors import text_of
from variants.tensor_parallel import ShardSpec

T = TypeVar("T")
State = dict[str, Any]  # nested, as of `torch.distributed.checkpoint.state_dict`

CHECKSUMS = "checksums.json"  # in the state folder; PyTorch does not check its files
CRASH_GRACE_S = 5.0  # for the checkpoint in flight when the training fails


class StateError(Exception):
    """A run's state cannot be written or read; the message has the folder and each rank's error."""


@dataclass(frozen=True)
class _Staged:
    """A state in host memory, of which a checkpoint after `step` steps is written.

    `weights` are this rank's parameters by name, which `state` holds as well. `curves` are the
    numbers of bytes of the files to which this rank appends.
    """

    step: int
    val_loss: float | None
    weights: Mapping[str, Tensor]
    state: State
    curves: Mapping[Path, int]


class Checkpoints:
    """Write checkpoints and keep the newest one and the one with the lowest validation loss.

    `save` copies the state to host memory, and a thread writes it during the next steps: at
    most one checkpoint is in flight. The threads of all ranks have a process group of their own.
    `with checkpoints:` waits for the last one.

    Checkpoints that neither the `newest` nor the `best` link names are removed. While a run that
    keeps checkpoints is unfinished, both hold the full state, so that it can resume; `drop_states`
    removes the files that the finished run does not keep. `blocked_s` is how long saves kept the
    training waiting, `written_s` how long the thread wrote, both in seconds.
    """

    def __init__(
        self,
        run: Run,
        spec: RunSpec,
        context: DistributedContext,
        gpt: GPT,
        optimizer: torch.optim.Optimizer,
        average: ParameterAverage | None = None,
    ) -> None:
        self._run = run
        self._spec = spec
        self._context = context
        self._gpt = gpt
        self._specs = shard_specs(gpt)
        self._optimizer = optimizer
        self.average = average
        self._keeps_any = spec.launch.keep_checkpoints != "none"
        if self._keeps_any:
            self._thread_context = context.of_thread(spec.launch.stall_timeout_s)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._state: State | None = None  # in host memory, used again by each save
        self._saved_at = time.monotonic()
        self._timer = Timer(context.device)
        self._newest_step = n_steps(absolute(run.newest_checkpoint))  # 0: none
        self._best_step = n_steps(absolute(run.best_checkpoint))
        self._lowest_loss = math.inf
        self.blocked_s = 0.0
        self.written_s = 0.0

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        """Wait for the checkpoint in flight; after an error, only if it may still become whole."""
        if error is None:
            self.wait()
        elif self._thread is not None and not is_lost_peer(error):
            self._thread.join(CRASH_GRACE_S)

    @property
    def is_writing(self) -> bool:
        """Whether this rank writes a checkpoint now."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def has_failed(self) -> bool:
        """Whether the checkpoint in flight could not be written: `wait` raises why."""
        return self._error is not None

    @property
    def is_due(self) -> bool:
        """Whether `checkpoint_every_s` has passed since the last save. The clock is this rank's."""
        every_s = self._spec.launch.checkpoint_every_s
        if every_s is None or not self._keeps_any:
            return False
        return time.monotonic() - self._saved_at >= every_s

    def save(self, step: int, val_loss: float | None) -> None:
        """Copy the state after `step` steps, and begin to write it, if the run keeps any.

        Every rank calls this. It waits for the checkpoint in flight. `val_loss` is in nats per
        token, None if this step was not evaluated.

        Raises:
            see `wait`.
        """
        if not self._keeps_any:
            return
        self.wait()
        self._saved_at = time.monotonic()
        with self._timer:
            staged = self._stage(step, val_loss)
        self.blocked_s += self._timer.seconds
        self._thread = threading.Thread(
            target=self._write_in_thread, args=(staged,), name="checkpoint", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait until the checkpoint in flight, if there is one, is whole and linked on all ranks.

        Raises:
            StateError: a rank could not write its part; raised on all ranks.
            ClaimLost: the run belongs to another process; raised on all ranks.
        """
        if self._thread is None:
            return
        with self._timer:
            self._thread.join()
        self.blocked_s += self._timer.seconds
        self._thread = None
        error = self._error
        self._error = None
        if error is not None:
            raise error

    def _stage(self, step: int, val_loss: float | None) -> _Staged:
        names = [name for name, _ in named_local_parameters(self._gpt)]
        self._state = stage_state(step, self._gpt, self._optimizer, self.average, self._state)
        return _Staged(
            step=step,
            val_loss=val_loss,
            weights={name: self._state["model"][name] for name in names},
            state=self._state,
            curves=self._run.curve_sizes(self._context.rank),
        )

    def _write_in_thread(self, staged: _Staged) -> None:
        started = time.perf_counter()
        try:
            if self._context.device.type == "cuda":  # which is a setting of each thread
                torch.cuda.set_device(self._context.device)
            self._write(staged)
        except BaseException as error:  # the main thread raises it
            self._error = error
        self.written_s += time.perf_counter() - started

    def _write(self, staged: _Staged) -> None:
        """Write a checkpoint, then let the links name it.

        No link moves before the folder is whole, and before the curves up to its step are on the
        disk of each rank: a checkpoint that is newer than the curve cannot be used to resume.
        """
        tensors = gather_weights(staged.weights, self._specs, self._thread_context)
        with ExitStack() as stack:
            folder = self._on_all(lambda: self._begin(stack, staged.step, tensors))[0]
            assert folder is not None
            write_state(folder, staged.state, self._specs, self._thread_context.group)
            curves: dict[str, FileStart] = {}
            for starts in self._on_all(lambda: self._flush(staged)):
                curves |= starts or {}
            self._on_all(lambda: self._complete(folder, curves))
            self._on_all(lambda: self._publish(stack, staged))

    def _begin(self, stack: ExitStack, step: int, tensors: Tensors) -> Path | None:
        """Write the weights on rank 0; return the temporary folder, which `stack` renames."""
        if not self._context.is_first:
            return None
        self._remove_unlinked()
        folder = stack.enter_context(atomic_folder(self._run.checkpoints / f"step-{step}"))
        write_weights(self._weights(step, tensors), folder)
        return folder

    def _flush(self, staged: _Staged) -> dict[str, FileStart]:
        """Flush the curves of this rank to disk; return their first bytes, up to the saved step."""
        self._run.flush(self._context.rank)
        with self._run.reading():
            return file_starts(staged.curves)

    def _complete(self, folder: Path, curves: Mapping[str, FileStart]) -> None:
        if self._context.is_first:
            checksums = StateChecksums(crc32=_checksums(folder / STATE), curves=dict(curves))
            write_json(folder / STATE / CHECKSUMS, checksums)
        self._run.check_claim()

    def _publish(self, stack: ExitStack, staged: _Staged) -> None:
        if self._context.is_first:
            stack.close()
            self._link(staged.step, staged.val_loss)

    def _on_all(self, work: Callable[[], T]) -> list[T | None]:
        """Call `work` on each rank; return the results of all ranks.

        Raises:
            StateError, ClaimLost: it failed on some rank; raised on all ranks.
        """
        result = None
        error: Exception | None = None
        try:
            result = work()
        except Exception as raised:
            error = raised
        failure = None if error is None else (type(error).__name__, text_of(error))
        outcomes = self._thread_context.gather((result, failure))
        if error is not None and not isinstance(error, OSError | SafetensorError):
            raise error
        failures = {
            rank: failure for rank, (_, failure) in enumerate(outcomes) if failure is not None
        }
        if any(name == ClaimLost.__name__ for name, _ in failures.values()):
            raise ClaimLost(self._run.run_id)
        if failures:
            reasons = [f"rank {rank}: {name}: {text}" for rank, (name, text) in failures.items()]
            raise StateError(f"{_unwritable(self._run.checkpoints)}: {'; '.join(reasons)}") from (
                error
            )
        return [value for value, _ in outcomes]

    def _weights(self, step: int, tensors: Tensors) -> Weights:
        spec = self._spec
        return Weights(
            shape=ModelShape(**spec.model.model_dump()),
            axes=spec.variants,
            tensors=tensors,
            origin=dict.fromkeys(tensors, f"trained by {spec.run_id}, {step} steps"),
            variant_paths=spec.launch.variant_paths,
            tokenizer=spec.data.tokenizer,
            data_steps=spec.data_offset_steps + step,
        )

    def restore_links(self, step: int, losses: Mapping[int, float]) -> None:
        """Restore the `newest` and `best` links after resuming at `step`. Rank 0 calls this.

        `losses` maps the evaluated steps up to `step` to validation losses. Checkpoints later than
        `step` are damaged and are removed. The links may be missing or folders: some ways to copy
        a run lose or follow them.
        """
        self._run.check_claim()
        newest = self._run.newest_checkpoint
        best = self._run.best_checkpoint
        for link in (newest, best):
            if not link.is_symlink():
                remove(link)
        self._best_step = 0
        for folder in sorted(self._run.checkpoints.glob("step-*"), key=n_steps):
            if n_steps(folder) <= step:
                self._link_best(n_steps(folder), losses.get(n_steps(folder)))
        if self._best_step == 0:
            best.unlink(missing_ok=True)
        if step > 0:
            self._link(step, losses.get(step))
        else:
            newest.unlink(missing_ok=True)
            self._newest_step = 0
            self._remove_unlinked()

    def _link(self, step: int, val_loss: float | None) -> None:
        self._newest_step = step
        _point(self._run, self._run.newest_checkpoint, f"step-{step}")
        self._link_best(step, val_loss)
        self._remove_unlinked()

    def _link_best(self, step: int, val_loss: float | None) -> None:
        if val_loss is not None and val_loss < self._lowest_loss:
            self._lowest_loss = val_loss
            self._best_step = step
            _point(self._run, self._run.best_checkpoint, f"step-{step}")

    def _remove_unlinked(self) -> None:
        """Remove checkpoints that neither link names, and partial files that a crash left."""
        kept = (f"step-{self._newest_step}", f"step-{self._best_step}")
        for pattern in ("step-*", ".*.tmp"):
            for path in self._run.checkpoints.glob(pattern):
                if path.name not in kept:
                    self._run.check_claim()
                    remove(path)


def resumable_checkpoints(run: Run) -> list[Path]:
    """Return the checkpoints that hold an undamaged state, newest first."""
    folders = []
    for folder in run.checkpoints.glob("step-*"):
        if n_steps(folder) > 0 and _is_undamaged(folder / STATE):
            folders.append(folder)
    return sorted(folders, key=n_steps, reverse=True)


def _is_undamaged(state: Path) -> bool:
    try:
        return _recorded(state).crc32 == _checksums(state)
    except (OSError, StoreError, ValidationError):
        return False


def file_starts(sizes: Mapping[Path, int]) -> dict[str, FileStart]:
    """Return the first bytes of files, so many of each, by the names of the files."""
    return {
        path.name: FileStart(n_bytes=n_bytes, crc32=crc32(path, n_bytes))
        for path, n_bytes in sizes.items()
    }


def saved_curves(folder: Path) -> dict[str, FileStart]:
    """Return the curves as they were when an undamaged state was saved, by the names of files."""
    return _recorded(folder / STATE).curves


def _recorded(state: Path) -> StateChecksums:
    return StateChecksums.model_validate(read_json(state / CHECKSUMS))


def _checksums(state: Path) -> dict[str, int]:
    return {path.name: crc32(path) for path in sorted(state.iterdir()) if path.name != CHECKSUMS}


def begins_as_saved(run: Run, rank: int, saved: Mapping[str, FileStart]) -> bool:
    """Return whether the curves of `rank` begin as they were when a state was saved.

    Otherwise the state, or a curve, is that of another run.
    """
    for path in run.curves(rank):
        start = saved.get(path.name)
        if start is not None and crc32(path, start.n_bytes) != start.crc32:
            return False
    return True


def stage_state(
    step: int,
    gpt: GPT,
    optimizer: torch.optim.Optimizer,
    average: ParameterAverage | None = None,
    earlier: State | None = None,
) -> State:
    """Return a copy of this rank's state after `step` steps in host memory.

    It has the parameters, their average and the optimizer state. The memory of an `earlier` copy is
    used again.
    """
    copied: State = copy_to_host(_state(gpt, optimizer, average, step), earlier)
    return copied


def write_state(
    folder: Path,
    state: State,
    specs: Mapping[str, ShardSpec],
    group: dist.ProcessGroup | None = None,
) -> None:
    """Write the states of all ranks, sharded by rank. `specs` are those of `shard_specs`.

    Raises:
        StateError: a rank cannot write its shard; raised on all ranks.
    """
    state_folder = folder / STATE
    with _one_line_errors(_unwritable(state_folder)):
        # The writer is named: to find one, DCP imports `fsspec`, which takes 0.1 s.
        writer = FileSystemWriter(state_folder)
        sharded = to_dcp_state(state, specs)
        state_dict_saver.save(sharded, storage_writer=writer, process_group=group)


def _unwritable(path: Path) -> str:
    """Say that a folder cannot be written, and the free space.

    PyTorch reports a full disk as "unexpected pos 704 vs 598".
    """
    existing = next(folder for folder in path.parents if folder.is_dir())
    return f"{path} cannot be written ({shutil.disk_usage(existing).free} bytes were free)"


def load_state(
    folder: Path,
    gpt: GPT,
    optimizer: torch.optim.Optimizer,
    average: ParameterAverage | None = None,
) -> int:
    """Load parameters, their average and optimizer state; return the completed steps.

    They may have been sharded otherwise.

    Raises:
        StateError: the state is incomplete, of another model, or could run code; model, average
            and optimizer are undefined afterwards.
    """
    state = _state(gpt, optimizer, average, 0)
    with _one_line_errors(f"{folder / STATE} cannot be read"):
        loaded = to_dcp_state(state, shard_specs(gpt))
        reader = StateReader(folder / STATE)
        state_dict_loader.load(loaded, storage_reader=reader, planner=StatePlanner())
    set_state_dict(
        gpt, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )
    return int(loaded["step"])


def _state(
    gpt: GPT, optimizer: torch.optim.Optimizer, average: ParameterAverage | None, step: int
) -> State:
    model_state, optimizer_state = get_state_dict(gpt, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state, "step": step}
    return state if average is None else state | {"average": average.values}


@contextmanager
def _one_line_errors(problem: str) -> Iterator[None]:
    """Convert DCP's exception, which is not an `Exception` and very long, to a `StateError`."""
    try:
        yield
    except CheckpointException as error:
        reasons = [
            f"rank {rank}: {type(cause).__name__}: {cause}"
            for rank, (cause, _) in error.failures.items()
        ]
        raise StateError(" ".join(f"{problem}: {'; '.join(reasons)}".split())) from error


def _point(run: Run, link: Path, name: str) -> None:
    """Point a link to a folder next to it, atomically: readers see the old or the new target.

    On a file system without links, it is a copy of the folder without its state.
    """
    new_link = run.temporary(link)
    try:
        new_link.symlink_to(name)
    except OSError:
        shutil.copytree(link.parent / name, new_link, ignore=shutil.ignore_patterns(STATE))
        run.check_claim()
        remove(link)
    run.replace(new_link, link)
