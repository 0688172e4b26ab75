"""The commit of the source tree."""

import subprocess
from pathlib import Path


def commit() -> str | None:
    """Return the commit of the code; None outside of a repository, or if git cannot be asked."""
    return _git("rev-parse", "HEAD") or None


def has_changes() -> bool | None:
    """Return whether the code has uncommitted changes; None if git cannot be asked."""
    changes = _git("status", "--porcelain")
    return None if changes is None else bool(changes)


def _git(*arguments: str) -> str | None:
    """Return the output of a git command on this source tree; None if it fails."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
