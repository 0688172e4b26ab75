"""The contents of files as hashes, and stamps, which show that a file has not changed."""

import hashlib
import os
from pathlib import Path

import harness

ROOT = Path(harness.__file__).parent.parent  # of `harness/` and `variants/`

# Packages of the harness whose code determines results. All others start, store or show them.
COMPUTING = ("data", "distributed", "model", "probes", "training")

Contents = dict[str, str]  # SHA-256 by name, such as harness/data/corpus.py

# Inode, size, and times of the last change of content and of inode, nanoseconds.
Stamp = tuple[int, int, int, int]


def stamp(path: str | Path) -> Stamp:
    """Return the stamp of a file.

    Raises:
        OSError: there is no such file.
    """
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def content_hash(path: str | Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def shipped_contents() -> Contents:
    """Return the hashes of all files of the harness and of its variants that compute."""
    contents: Contents = {}
    for package in (*(f"harness/{name}" for name in COMPUTING), "variants"):
        for folder, _, files in os.walk(ROOT / package):
            prefix = os.path.relpath(folder, ROOT)
            for name in files:
                if name.endswith(".py"):
                    contents[f"{prefix}/{name}"] = content_hash(os.path.join(folder, name))
    return contents
