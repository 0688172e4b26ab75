"""Ranks that are forked from one process, so that torch is imported once."""

import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent


def run_script(script: str, folder: Path, *arguments: object, paths: tuple[Path, ...] = ()) -> None:
    """Run a script that calls `fork_ranks`; it imports from `paths` as well, and ends with pytest.

    Raises:
        AssertionError: the script or a rank failed.
    """
    file = folder / "script.py"
    file.write_text(script)
    search_path = os.pathsep.join(map(str, (TESTS.parent, TESTS, *paths)))
    process = subprocess.Popen(
        [sys.executable, str(file), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": search_path, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    errors = process.stderr.read()
    process.communicate()
    assert process.returncode == 0, errors[-6000:]


def fork_ranks(world_size: int, work: Callable[[], None]) -> None:
    """Do the work on so many ranks; if one fails, kill the process group.

    Ranks end without clean-up: a fault may leave a process group in any state.
    """
    _watch_pytest()
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    group = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(world_size)}
    for rank in range(world_size):
        if os.fork() == 0:
            os.environ.update(group, RANK=str(rank), LOCAL_RANK=str(rank))
            try:
                work()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
    for _ in range(world_size):
        if os.wait()[1] != 0:
            os.killpg(0, signal.SIGKILL)


@cache
def _watch_pytest() -> None:
    """End the process group when pytest closes the pipe, or ends."""
    threading.Thread(target=_end_with_pytest, daemon=True).start()


def _end_with_pytest() -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)
