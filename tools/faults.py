"""Plant each fault of `tests/faults/` in a copy of the tree and check that the tests catch it.

A patch begins with the description of its fault and a line `tests: ARGUMENTS OF PYTEST`. A fault is
caught if these tests fail with it. They must pass without it: run `make test` first.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "tests/faults"
OUTCOMES = {0: "MISSED", 1: "caught"}  # by exit code of pytest


@dataclass(frozen=True)
class Fault:
    """A patch, the description of its fault, and the tests that must catch it."""

    patch: Path
    description: str
    tests: list[str]


def read(patch: Path) -> Fault:
    """Return the fault of a patch file."""
    description, tests = patch.read_text(encoding="utf-8").splitlines()[:2]
    if not tests.startswith("tests: "):
        raise ValueError(f"{patch}: line 2 must be 'tests: ARGUMENTS OF PYTEST'")
    return Fault(patch, description, tests.removeprefix("tests: ").split())


def outcome(fault: Fault, files: list[str]) -> str:
    """Return `caught`, `MISSED`, or why the fault could not be tried."""
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            copy = Path(folder, file)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, copy)
        applied = subprocess.run(
            ["git", "apply", str(fault.patch)],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if applied.returncode:
            return f"DOES NOT APPLY: {applied.stderr.strip()}"
        pytest = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *fault.tests],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": folder},
            capture_output=True,
            text=True,
            check=False,
        )
        last_line = pytest.stdout.strip().rpartition("\n")[2]
        return OUTCOMES.get(pytest.returncode, f"ERROR: {last_line}")


def main() -> int:
    """Try the faults and print a table; return 1 if a fault was not caught."""
    parser = argparse.ArgumentParser(description="Check that the tests catch planted faults.")
    parser.add_argument("names", nargs="*", help="names of patches (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="faults to try at once")
    arguments = parser.parse_args()
    faults = [read(patch) for patch in sorted(FOLDER.glob("*.patch"))]
    if arguments.names:
        faults = [fault for fault in faults if fault.patch.stem in arguments.names]
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], check=True, capture_output=True, text=True
    )
    files = [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    outcomes = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = pool.map(lambda fault: outcome(fault, files), faults)
        for fault, result in zip(faults, results, strict=True):
            outcomes.append(result)
            progress = f"[{len(outcomes)}/{len(faults)}]"
            print(f"{progress} {fault.patch.stem}: {result}", file=sys.stderr, flush=True)
    rows = [
        (fault.patch.stem, fault.description, result)
        for fault, result in zip(faults, outcomes, strict=True)
    ]
    print(tabulate(rows, ("fault", "description", "outcome")))
    n_caught = outcomes.count("caught")
    print(f"{n_caught} of {len(faults)} faults caught")
    return int(n_caught < len(faults) or not faults)


if __name__ == "__main__":
    sys.exit(main())
