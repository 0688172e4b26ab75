"""Let the hosts of a cluster train one study, with random faults of ranks, jobs and hosts.

Each host has a batch job that runs the study; both share the results folder, as on a file server.
"""

import contextlib
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
from kill_runs import KilledStudy
from slurm_cluster import Cluster, wait_until

from harness.results.owner import SILENCE_S
from harness.results.records import RunStatus

MAX_DELAY_S = 3.0
LONG_PAUSE_S = SILENCE_S + 15.0  # others take the runs of an owner that is silent for so long
SHORT_PAUSE_S = 2.0
FORK_SERVER = "multiprocessing.forkserver"


class ClusterStudy(KilledStudy):
    """A study that one job per host of a cluster trains; `train_with_faults` disturbs them.

    `faults` counts those that happened, by kind.
    """

    def __init__(self, folder: Path, cluster: Cluster, seed: int) -> None:
        super().__init__(folder, seed)
        self._cluster = cluster
        self.faults: Counter[str] = Counter()
        self._first_done: dict[Path, RunStatus] = {}
        self._kinds: dict[str, Callable[[], bool]] = {
            "rank": self._kill_rank,
            "launcher": self._kill_launcher,
            "step daemon": self._kill_step_daemon,
            "node": self._kill_node,
            "controller": self._restart_controller,
            "requeue": self._requeue,
            "short pause": lambda: self._pause(SHORT_PAUSE_S),
            "long pause": lambda: self._pause(LONG_PAUSE_S),
        }

    def train_with_faults(self, results: str, max_faults: int) -> None:
        """Submit jobs until all runs are done; meanwhile let up to `max_faults` faults happen."""
        while not self._is_done(results):
            self._submit(results)
            while self._cluster.active_jobs():
                if self.faults.total() < max_faults and self._trainers():
                    self._let_fault_happen()
                self._note_done(results)
                self._cluster.start_requeued()
                time.sleep(self._random.uniform(0.0, MAX_DELAY_S))

    def wait_for_processes(self) -> None:
        """Wait until no process of a job is left."""
        wait_until(lambda: not self._job_processes(), "all processes of jobs have ended")

    def repeated_runs(self, results: str) -> list[str]:
        """Return the runs that were trained again after they were done."""
        repeated = []
        for run in self.runs(results):
            if run.status != self._first_done.get(run.path, run.status):
                repeated.append(run.run_id)
        return repeated

    def _note_done(self, results: str) -> None:
        for run in self.runs(results):
            status = run.status
            if status.status == "done":
                self._first_done.setdefault(run.path, status)

    def _is_done(self, results: str) -> bool:
        statuses = {run.status.status for run in self.runs(results)}
        return statuses == {"done"}

    def _submit(self, results: str) -> None:
        failed = any(run.status.status == "failed" for run in self.runs(results))
        options = "--retry-failed" if failed else ""
        command = f"{sys.executable} -m harness run study.toml --results {results} {options}"
        for node in self._cluster.nodes:
            self._cluster.call(
                "sbatch",
                "--requeue",
                f"--nodelist={node}",
                f"--chdir={self.folder}",
                "--output=job.%j.txt",
                "--open-mode=append",
                "--wrap",
                f"export ABLATIONS_CACHE={self.folder}/cache; exec {command}",
            )

    def _let_fault_happen(self) -> None:
        kind = self._random.choice(list(self._kinds))
        with contextlib.suppress(psutil.NoSuchProcess):
            if self._kinds[kind]():
                self.faults[kind] += 1
                print(f"fault {self.faults.total()}: {kind}", flush=True)

    # -- processes --------------------------------------------------------------------------------

    def _job_processes(self) -> list[psutil.Process]:
        processes = []
        for node in self._cluster.nodes:
            processes += [p for p in self._cluster.processes(node) if not _is_daemon(p)]
        return processes

    def _trainers(self) -> list[psutil.Process]:
        """Return the ranks: the children of fork servers."""
        ranks = []
        for process in self._job_processes():
            with contextlib.suppress(psutil.Error):
                parent = process.parent()
                if parent is not None and any(FORK_SERVER in part for part in parent.cmdline()):
                    ranks.append(process)
        return ranks

    def _launchers(self) -> list[psutil.Process]:
        launchers = {}
        for rank in self._trainers():
            with contextlib.suppress(psutil.Error):
                launcher = rank.parent().parent()
                launchers[launcher.pid] = launcher
        return list(launchers.values())

    # -- faults: each returns whether it happened -------------------------------------------------

    def _kill_rank(self) -> bool:
        return self._kill_one(self._trainers())

    def _kill_launcher(self) -> bool:
        return self._kill_one(self._launchers())

    def _kill_step_daemon(self) -> bool:
        daemons = []
        for node in self._cluster.nodes:
            daemons += [p for p in self._cluster.processes(node) if _is_daemon(p)]
        return self._kill_one(daemons)

    def _kill_one(self, processes: list[psutil.Process]) -> bool:
        if not processes:
            return False
        self._random.choice(processes).kill()
        return True

    def _kill_node(self) -> bool:
        node = self._random.choice(self._cluster.nodes)
        self._cluster.kill_node(node)
        self._cluster.report_down(node)
        self._cluster.start_node(node)
        return True

    def _restart_controller(self) -> bool:
        self._cluster.kill_controller()
        time.sleep(self._random.uniform(0.0, MAX_DELAY_S))
        self._cluster.start_controller()
        wait_until(self._cluster.answers, "the controller answers")
        return True

    def _requeue(self) -> bool:
        running = [job for job in self._cluster.jobs() if job.state == "RUNNING"]
        if not running:
            return False
        self._cluster.call("scontrol", "requeue", self._random.choice(running).id)
        return True

    def _pause(self, pause_s: float) -> bool:
        """Stop all processes of the jobs of one host for a while, as a hanging host does."""
        node = self._random.choice(self._cluster.nodes)
        processes = [p for p in self._cluster.processes(node) if not _is_daemon(p)]
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            if number == signal.SIGSTOP:
                time.sleep(pause_s)
        return bool(processes)


def _is_daemon(process: psutil.Process) -> bool:
    return process.name().startswith("slurmstepd")
