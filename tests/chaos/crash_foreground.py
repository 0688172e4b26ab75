"""Let training wait for each checkpoint while the file FOREGROUND exists; for the fork server."""

import os
from pathlib import Path

from crash_hook import FOLDER, FOREGROUND

from harness.training.checkpointing import Checkpoints


def install() -> None:
    """Replace `Checkpoints.save` in this process and in those that are forked from it."""
    save = Checkpoints.save

    def save_and_wait(self: Checkpoints, step: int, val_loss: float | None) -> None:
        save(self, step, val_loss)
        if Path(os.environ[FOLDER], FOREGROUND).exists():
            self.wait()

    Checkpoints.save = save_and_wait


if FOLDER in os.environ:
    install()
