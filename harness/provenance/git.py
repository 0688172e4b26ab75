"""The commit of the source tree."""

import subprocess
from pathlib import Path


def commit() -> str | None:
    """Return the commit of the code, None outside of a repository."""
    return _git("rev-parse", "HEAD") or None


def has_changes() -> bool:
    """Return whether the code has uncommitted changes."""
    return bool(_git("status", "--porcelain"))


def _git(*arguments: str) -> str:
    """Return the output of a git command on this source tree; empty outside of a repository."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
