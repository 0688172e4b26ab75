"""Keep a run's newest and best checkpoint.

Writes are atomic: a crash never corrupts an existing checkpoint.
"""

import math
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from harness.distributed.process_group import DistributedContext
from harness.distributed.shards import gather_weights, shard_specs, to_dcp_state
from harness.errors import StoreError
from harness.model.gpt import GPT
from harness.model.weights import Weights, atomic_folder, write_weights
from harness.probes.timer import Timer
from harness.results.files import read_json, write_json
from harness.results.records import RunSpec
from harness.results.run import Run
from harness.training.averaging import ParameterAverage
from harness.training.state_reader import StatePlanner, StateReader
from variants.base import ModelShape

# Folder within a checkpoint: parameters, their average and optimizer state, one shard per rank.
STATE = "state"
CHECKSUMS = (
    "checksums.json"  # in the state folder: CRC-32 of its files, which PyTorch does not check
)
CHUNK_BYTES = 1 << 22  # read at once for a checksum


class StateError(Exception):
    """A run's state cannot be written or read; the message has the folder and each rank's error."""


class Checkpoints:
    """Write checkpoints and keep the newest one and the one with the lowest validation loss.

    Checkpoints that neither the `newest` nor the `best` link names are removed. While a run that
    keeps checkpoints is unfinished, both hold the full state, so that it can resume; `drop_state`
    removes the files that the finished run does not keep. `total_s` is the time of all saves, in
    seconds.
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
        self._optimizer = optimizer
        self.average = average
        self._timer = Timer(context.device)
        self._newest_step = _n_steps(run.newest_checkpoint.resolve())  # 0: none
        self._best_step = _n_steps(run.best_checkpoint.resolve())
        self._lowest_loss = math.inf
        self.total_s = 0.0

    def save(self, step: int, val_loss: float | None) -> None:
        """Write a checkpoint after `step` steps, if the run keeps any.

        Every rank calls this and waits for all. `val_loss` is in nats per token, None if this step
        was not evaluated.

        Raises:
            OSError, SafetensorError: the weights cannot be written, on rank 0.
            StateError: the state cannot be written, on all ranks.
        """
        if self._spec.launch.keep_checkpoints == "none":
            return
        with self._timer:
            self._write(step)
            if self._context.is_first:
                self._link(step, val_loss)
            # A checkpoint that is newer than the recorded curve cannot be used to resume.
            self._run.flush(self._context.rank)
            self._context.barrier()  # keeps the disk of another rank out of the next step's time
        self.total_s += self._timer.seconds

    def _write(self, step: int) -> None:
        weights = self._weights(step)
        if self._context.is_first:
            self._remove_unlinked()
        dest = self._run.checkpoints / f"step-{step}"
        writing = atomic_folder(dest) if self._context.is_first else nullcontext(dest)
        with writing as folder:
            if self._context.is_first:
                write_weights(weights, folder)
            shared_folder = self._context.gather(folder)[0]
            save_state(shared_folder, step, self._gpt, self._optimizer, self.average)
            self._run.check_claim()

    def _weights(self, step: int) -> Weights:
        spec = self._spec
        tensors = gather_weights(self._gpt, self._context)
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
                _remove(link)
        self._best_step = 0
        for folder in sorted(self._run.checkpoints.glob("step-*"), key=_n_steps):
            if _n_steps(folder) <= step:
                self._link_best(_n_steps(folder), losses.get(_n_steps(folder)))
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
                    _remove(path)


def drop_state(run: Run, keep: str) -> None:
    """Remove the states of a finished run, except the newest one if `keep` is "full"."""
    states = sorted(run.checkpoints.glob(f"step-*/{STATE}"), key=lambda path: _n_steps(path.parent))
    for path in states[:-1] if keep == "full" else states:
        run.check_claim()
        _remove(path)


def resumable_checkpoints(run: Run) -> list[Path]:
    """Return the checkpoints that hold an undamaged state, newest first."""
    folders = []
    for folder in run.checkpoints.glob("step-*"):
        if _n_steps(folder) > 0 and _is_undamaged(folder / STATE):
            folders.append(folder)
    return sorted(folders, key=_n_steps, reverse=True)


def _is_undamaged(state: Path) -> bool:
    try:
        return bool(read_json(state / CHECKSUMS)["crc32"] == _checksums(state))
    except (OSError, StoreError, KeyError):
        return False


def _checksums(state: Path) -> dict[str, int]:
    return {path.name: _crc32(path) for path in sorted(state.iterdir()) if path.name != CHECKSUMS}


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            value = zlib.crc32(chunk, value)
    return value


def _n_steps(folder: Path) -> int:
    """Return the number of steps in a checkpoint folder's name; 0 for any other folder."""
    number = folder.name.removeprefix("step-")
    return int(number) if folder.name.startswith("step-") and number.isdecimal() else 0


def save_state(
    folder: Path,
    step: int,
    gpt: GPT,
    optimizer: torch.optim.Optimizer,
    average: ParameterAverage | None = None,
) -> None:
    """Write parameters, their average, optimizer state and the completed steps, sharded by rank.

    Raises:
        StateError: a rank cannot write its shard; raised on all ranks.
    """
    state_folder = folder / STATE
    # PyTorch reports a full disk as "unexpected pos 704 vs 598", so the message states the free
    # space.
    free_bytes = shutil.disk_usage(folder.parent).free
    with _one_line_errors(f"{state_folder} cannot be written ({free_bytes} bytes were free)"):
        state = to_dcp_state(_state(gpt, optimizer, average, step), shard_specs(gpt))
        state_dict_saver.save(state, checkpoint_id=state_folder)
    if dist.get_rank() == 0:
        write_json(state_folder / CHECKSUMS, {"crc32": _checksums(state_folder)})


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
) -> dict[str, Any]:
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
        _remove(link)
    run.replace(new_link, link)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
