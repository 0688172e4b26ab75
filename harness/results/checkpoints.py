"""The states of a run's checkpoints: what a finished run keeps of them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from harness.results.files import remove

if TYPE_CHECKING:
    from harness.results.run_files import RunFiles

# Folder within a checkpoint: parameters, their average and optimizer state, one shard per rank.
STATE = "state"


def n_steps(folder: Path) -> int:
    """Return the number of steps in a checkpoint folder's name; 0 for any other folder."""
    number = folder.name.removeprefix("step-")
    is_number = number.isascii() and number.isdecimal()
    return int(number) if folder.name.startswith("step-") and is_number else 0


def superfluous_states(run: "RunFiles", keep: str) -> list[Path]:
    """Return the states that a finished run does not keep: all but the newest if `keep` is "full".

    Training removes them when the run is done. A crash in between leaves them. A state that a link
    leads to is not the run's.
    """
    states = []
    for folder in run.checkpoints.glob("step-*"):
        state = folder / STATE
        if os.path.lexists(state) and not (run.checkpoints.is_symlink() or folder.is_symlink()):
            states.append(state)
    states.sort(key=lambda path: n_steps(path.parent))
    return states[:-1] if keep == "full" else states


def drop_states(run: "RunFiles", keep: str) -> None:
    """Remove the states that a finished run does not keep.

    Raises:
        ClaimLost: another process has taken the run over.
    """
    for path in superfluous_states(run, keep):
        run.check_claim()
        remove(path)
