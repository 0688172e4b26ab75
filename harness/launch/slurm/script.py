"""The batch script of an array job, and the arguments of sbatch; pure text."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from harness.results.records import Submission

# Slurm or PYTHONPATH read these characters of a path in another way.
REFUSED_CHARACTERS = {
    "\n": "a line break",
    "\r": "a line break",
    ":": "a colon",
    "\\": "a backslash",
}
ELEMENT_COMMAND = "_element"


def path_problem(path: Path) -> str | None:
    """Return why a folder's path cannot be that of a job's code or results, or None."""
    for character, name in REFUSED_CHARACTERS.items():
        if character in str(path):
            return f"its path contains {name}, which Slurm or Python read in another way; move it"
    return None


def batch_script(
    submission: Submission, file: Path, code: Path, variables: Mapping[str, str]
) -> str:
    """Return the batch script of a submission, which is recorded in `file`.

    `code` is the folder of the snapshot, `variables` are exported.
    """
    shape = submission.shape
    settings = submission.settings
    stated: dict[str, object] = {
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "time": settings.time,
        "nodes": shape.n_nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": shape.processes_per_node * shape.cpus_per_process,
        "gres": f"gpu:{shape.gpus_per_node}" if shape.gpus_per_node else None,
        "signal": f"B:USR1@{settings.signal_s}",
        "open-mode": "append",
    }
    lines = ["#!/bin/bash", "# Each element of the array trains its runs, one after the other."]
    for name, value in stated.items():
        if value is not None:
            lines.append(f"#SBATCH --{name}={value}")
    lines += ["#SBATCH --requeue", ""]
    if settings.setup:
        lines += [*settings.setup, ""]
    lines.append("# The code is a copy of the one that was submitted: later edits change nothing.")
    lines.append(f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}")
    for name, value in variables.items():
        lines.append(f"export {name}={shlex.quote(value)}")
    command = [submission.python, "-P", "-m", "harness", ELEMENT_COMMAND, str(file)]
    lines.append("# Slurm signals this process: Python takes the place of the shell.")
    lines.append(f"exec {shlex.join(command)}")
    return "\n".join(lines) + "\n"


def sbatch_arguments(submission: Submission, file: Path) -> list[str]:
    """Return the arguments of sbatch for a submission that is recorded in `file`."""
    last = len(submission.elements) - 1
    limit = submission.settings.max_parallel
    throttle = "" if limit is None else f"%{limit}"
    log = str(file.with_suffix("")).replace("%", "%%")
    return [
        f"--job-name={submission.name}",
        f"--array=0-{last}{throttle}",
        f"--chdir={file.parent.parent}",
        f"--output={log}.%a.log",
        *submission.settings.options,
    ]
