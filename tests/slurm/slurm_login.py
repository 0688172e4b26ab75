"""The command line on the login node of a cluster."""

import os
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from command_line import Harness
from slurm_cluster import Cluster
from stub_element import TRAINED

from harness.results.run import Run
from harness.results.store import Store

# The harness, with another time between two calls of squeue.
OFTEN = """
import sys
from harness.cli.app import main
from harness.launch.slurm import follow, queue
follow.FIRST_ASK_S = queue.ASK_INTERVAL_S = 1.0
main(sys.argv[1:])
"""
# The harness, whose jobs run a stub in place of Python.
STUBBED = """
import sys
from harness.cli.app import main
sys.executable = {python!r}
main(sys.argv[1:])
"""
# Counts its calls, and fails while a file exists.
SQUEUE = """#!/bin/sh
echo >> {calls}
[ -e {away} ] && echo "squeue: error: Unable to contact slurm controller" >&2 && exit 1
exec {squeue} "$@"
"""


class Login(Harness):
    """The command line in a folder of its own, with Slurm's commands of a cluster.

    `squeue` fails while the file `away` exists.
    """

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        super().__init__(folder)
        self.cluster = cluster
        self.away = folder / "away"
        self._calls = folder / "calls"
        wrapper = folder / "bin" / "squeue"
        wrapper.parent.mkdir()
        squeue = shutil.which("squeue", path=cluster.env["PATH"])
        paths = {"calls": self._calls, "away": self.away, "squeue": squeue}
        quoted = {name: shlex.quote(str(path)) for name, path in paths.items()}
        wrapper.write_text(SQUEUE.format(**quoted))
        wrapper.chmod(0o755)
        path = f"{wrapper.parent}:{cluster.env['PATH']}"
        self.env |= {"SLURM_CONF": cluster.env["SLURM_CONF"], "PATH": path}

    @property
    def n_asked(self) -> int:
        """The number of calls of squeue until now, also of the jobs."""
        return len(self._calls.read_bytes()) if self._calls.exists() else 0

    def start_often(self, *arguments: object, settings=()) -> subprocess.Popen:
        """Start a command that asks squeue once a second, not once a minute."""
        return self.start(*arguments, settings=settings, program=("-c", OFTEN))

    def start_stubbed(self, *arguments: object, settings=()) -> subprocess.Popen:
        """Start a command whose jobs run `stub_element.py`: they train nothing."""
        python = self.folder / "bin" / "python"
        stub = Path(__file__).with_name("stub_element.py")
        search_path = f"PYTHONPATH={shlex.quote(str(stub.parents[1]))}"  # of planted_runs
        python.write_text(f'#!/bin/sh\n{search_path} exec {sys.executable} {stub} "$@"\n')
        python.chmod(0o755)
        program = ("-c", STUBBED.format(python=str(python)))
        return self.start(*arguments, settings=settings, program=program)

    def times_trained(self) -> Counter[str]:
        """Return how often `stub_element.py` has trained each run, by run id."""
        return Counter((self.folder / "results" / TRAINED).read_text().split())

    def elements(self) -> dict[str, list[Run]]:
        """Return the runs of each submitted element, by job."""
        store = Store(self.folder / "results")
        elements = {}
        for submission in store.submissions("s"):
            for index, run_ids in enumerate(submission.elements):
                runs = [store.run("s", run_id) for run_id in run_ids]
                elements[f"{submission.job}_{index}"] = runs
        return elements

    def element_log(self, job: str) -> str:
        """Return what an element has printed."""
        number, _, index = job.partition("_")
        store = Store(self.folder / "results")
        (submission,) = [one for one in store.submissions("s") if one.job == number]
        return store.element_log("s", submission, int(index)).read_text()

    def run_locally(self, study: Path, *arguments: str, results="local", **options) -> None:
        """Train a study on this machine, with one thread as jobs of one core.

        The fork server of this process outlives the cluster: it does not belong to it.
        """
        cores = os.sched_getaffinity(0)
        of_cluster = self.env.pop("SLURM_CONF")
        os.sched_setaffinity(0, {min(cores)})
        try:
            self("run", study, f"--results={results}", *arguments, **options)
        finally:
            os.sched_setaffinity(0, cores)
            self.env["SLURM_CONF"] = of_cluster


def curves(results: Path, study: str = "s") -> dict[str, object]:
    """Return what the runs of a study have recorded that does not depend on time, by run id."""
    return {run.run_id: _curve(run) for run in Store(results).runs(study)}


def _curve(run: Run) -> object:
    steps = run.steps()
    evals = [(line.step, line.val_loss) for line in run.evals()]
    return steps.step.tolist(), steps.loss.tolist(), steps.grad_norm.tolist(), evals
