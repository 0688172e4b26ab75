"""A run's own checkpoints: the newest and the best, of which a crash at any moment leaves the older one whole."""

import math
import os
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
from harness.distributed.shards import pieces, stored, whole_weights
from harness.model import weights as folder
from harness.model.gpt import GPT
from harness.probes.timer import Timer
from harness.results.records import RunSpec
from harness.results.store import Run, StoreError, read_json, write_json
from variants.base import ModelShape

STATE = "state"  # in a checkpoint's folder: what a run needs beside its spec to go on, each rank's shard by itself
CHECKSUMS = "checksums.json"  # in a state's folder: CRC-32 of its files; what PyTorch reads, it does not check


class StateError(Exception):
    """A run's state cannot be written or read; the message names its folder, and which rank met what."""


class Checkpoints:
    """`save(step, val_loss)` makes a run's newest checkpoint, which is its best if that loss is the lowest so far.

    What neither `newest` nor `best` links to is removed. While a run that keeps anything is unfinished, both hold its
    whole state, so that it can go on; `drop_state` ends that. `total_s` sums the seconds that all of it took.
    """

    def __init__(
        self,
        run: Run,
        spec: RunSpec,
        ranks: DistributedContext,
        gpt: GPT,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self._run, self._spec, self._ranks = run, spec, ranks
        self._gpt, self._optimizer = gpt, optimizer
        self._timer, self._lowest, self.total_s = Timer(ranks.device), math.inf, 0.0

    def save(self, step: int, val_loss: float | None) -> None:
        """Write what `step` steps have made, if the run keeps anything; every rank calls it and waits for all.

        `val_loss` is in nats per token, None where this step was not evaluated.

        Raises:
            OSError, SafetensorError: the weights cannot be written, on rank 0.
            StateError: the state cannot be written, on all ranks.
        """
        if self._spec.launch.keep_checkpoints == "none":
            return
        with self._timer:
            self._write(step)
            if self._ranks.is_first:
                self._link(step, val_loss)
            self._run.flush(
                self._ranks.rank
            )  # a state that is ahead of its curve would be of no use
            self._ranks.gather(None)  # the next step is timed, and nobody's disk is a part of it
        self.total_s += self._timer.seconds

    def _write(self, step: int) -> None:
        weights = self._weights(step)
        if self._ranks.is_first:
            self._sweep()
        dest = self._run.checkpoints / f"step-{step}"
        with folder.beside(dest) if self._ranks.is_first else nullcontext(dest) as place:
            if self._ranks.is_first:
                folder.write(weights, place)
            save_state(self._ranks.gather(place)[0], step, self._gpt, self._optimizer)

    def _weights(self, step: int) -> folder.Weights:
        spec, tensors = self._spec, whole_weights(self._gpt, self._ranks)
        return folder.Weights(
            shape=ModelShape(**spec.model.model_dump()),
            axes=spec.axes,
            tensors=tensors,
            origin=dict.fromkeys(tensors, f"trained by {spec.run_id}, {step} steps"),
            variant_paths=spec.launch.variant_paths,
            tokenizer=spec.data.tokenizer,
        )

    def go_on(self, step: int, losses: Mapping[int, float]) -> None:
        """Take up what an earlier attempt left: `step` steps are done, `losses` are those of the evaluations till then.

        What is newer than that is damaged, and counts no more. Rank 0 calls it.
        """
        newest, best = self._run.newest_checkpoint, self._run.best_checkpoint
        self._lowest = losses.get(_steps(best.resolve()), math.inf)
        if self._lowest == math.inf:
            best.unlink(missing_ok=True)
        if step > 0:
            self._link(step, losses.get(step))
        else:
            newest.unlink(missing_ok=True)
            self._sweep()

    def _link(self, step: int, val_loss: float | None) -> None:
        _point(self._run.newest_checkpoint, f"step-{step}")
        if val_loss is not None and val_loss < self._lowest:
            self._lowest = val_loss
            _point(self._run.best_checkpoint, f"step-{step}")
        self._sweep()

    def _sweep(self) -> None:
        """Remove what neither link names, and what a crash has left."""
        newest, best = self._run.newest_checkpoint.resolve(), self._run.best_checkpoint.resolve()
        for pattern in ("step-*", ".*.tmp"):
            for path in self._run.checkpoints.glob(pattern):
                if path.name not in (newest.name, best.name):
                    _remove(path)


def drop_state(run: Run, keep: str) -> None:
    """Remove what a run that is done needs no more: all states, or where it keeps its state that of the best."""
    newest = run.newest_checkpoint.resolve()
    for path in run.checkpoints.glob(f"step-*/{STATE}"):
        if keep != "full" or path.parent != newest:
            _remove(path)


def whole_states(run: Run) -> list[Path]:
    """Return the checkpoints that hold a state with nothing damaged in it, the newest first."""
    found = [
        place
        for place in run.checkpoints.glob("step-*")
        if _steps(place) > 0 and _undamaged(place / STATE)
    ]
    return sorted(found, key=_steps, reverse=True)


def _undamaged(state: Path) -> bool:
    try:
        return bool(read_json(state / CHECKSUMS)["crc32"] == _checksums(state))
    except (OSError, StoreError, KeyError):
        return False


def _checksums(state: Path) -> dict[str, int]:
    sums = {}
    for path in sorted(state.iterdir()):
        if path.name != CHECKSUMS:
            with open(path, "rb") as file:
                value = 0
                while part := file.read(1 << 22):
                    value = zlib.crc32(part, value)
            sums[path.name] = value
    return sums


def _steps(place: Path) -> int:
    """Return how many steps have made the checkpoint in this folder; 0 where it is none."""
    number = place.name.removeprefix("step-")
    return int(number) if place.name.startswith("step-") and number.isdecimal() else 0


def save_state(place: Path, step: int, gpt: GPT, optimizer: torch.optim.Optimizer) -> None:
    """Write parameters, optimizer state and the number of steps done into `place`, each rank its own shard.

    Raises:
        StateError: a rank cannot write its part; raised on all ranks.
    """
    free = shutil.disk_usage(
        place.parent
    ).free  # of a full disk, what PyTorch says is "unexpected pos 704 vs 598"
    with _one_line_errors(f"{place / STATE} cannot be written ({free} bytes were free)"):
        state_dict_saver.save(
            stored(_state(gpt, optimizer, step), pieces(gpt)), checkpoint_id=place / STATE
        )
    if dist.get_rank() == 0:
        write_json(place / STATE / CHECKSUMS, {"crc32": _checksums(place / STATE)})


def load_state(place: Path, gpt: GPT, optimizer: torch.optim.Optimizer) -> int:
    """Take over parameters and optimizer state on all ranks, however they were sharded; return the steps done.

    Raises:
        StateError: it is not whole, or of another model; what gpt and optimizer hold is undefined then.
    """
    state = _state(gpt, optimizer, 0)
    with _one_line_errors(f"{place / STATE} cannot be read"):
        found = stored(state, pieces(gpt))
        state_dict_loader.load(found, checkpoint_id=place / STATE)
    set_state_dict(
        gpt, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )
    return int(found["step"])


def _state(gpt: GPT, optimizer: torch.optim.Optimizer, step: int) -> dict[str, Any]:
    model, optim = get_state_dict(gpt, optimizer)
    return {"model": model, "optimizer": optim, "step": step}


@contextmanager
def _one_line_errors(what: str) -> Iterator[None]:
    """Turn what DCP raises, which is no `Exception` and a page of tracebacks, into one of ours."""
    try:
        yield
    except CheckpointException as error:
        reasons = [
            f"rank {rank}: {type(why).__name__}: {why}" for rank, (why, _) in error.failures.items()
        ]
        raise StateError(" ".join(f"{what}: {'; '.join(reasons)}".split())) from error


def _point(link: Path, name: str) -> None:
    """Let a link point to a folder beside it; a reader finds the old or the new one."""
    beside = link.with_name(f".{link.name}.tmp")
    beside.symlink_to(name)
    os.replace(beside, link)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
