"""Run the command line again and again, each time in a process forked from this one.

This process and its fork server have loaded everything, so that a run takes a second. A line of
standard input is a request, one of standard output the exit code: negative if a signal ended it.
The first line of the output says that requests are served.
"""

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from multiprocessing import forkserver

import crash_hook

from harness.cli.app import main
from harness.launch import agent, fork_server


def load(arguments: Sequence[str]) -> None:
    """Run the command line in this process, which loads all that later runs need.

    The fork server that it starts has the hook as well.
    """
    agent.cores = lambda: 1  # threads that wait for each other take long on a machine in use
    fork_server.PRELOADED = ("crash_hook", *fork_server.PRELOADED, "crash_foreground")
    with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(SystemExit):
        main(arguments)


def serve_one(arguments: Sequence[str], output: str, cache: str) -> int:
    """Run the command line in a forked process; return its exit code."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 70
    try:
        fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(fd, number)
        # The fork server is a child of the parent, which a call of `waitpid` would not find.
        forkserver.ensure_running = lambda: None
        setattr(forkserver._forkserver, "ensure_running", lambda: None)  # noqa: B010 - a method
        os.environ["ABLATIONS_CACHE"] = cache
        crash_hook.begin_launcher()
        main(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    load(sys.argv[1:])
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(serve_one(request["arguments"], request["output"], request["cache"]), flush=True)
