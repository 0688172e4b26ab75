"""Let a Slurm cluster train a study, with random faults of jobs, daemons, hosts and the network.

The study is submitted by `run --on slurm`. When that command ends before all runs are done, it is
called again, as a user does.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
from kill_runs import KilledStudy
from slurm_cluster import Cluster, is_step_daemon, wait_until

from harness.results.owner import SILENCE_S
from harness.results.records import RunStatus

SETTINGS = """
stall_timeout_s = 20.0
slurm = { time = "01:00:00", processes_per_node = 1, per_element = 2 }
"""
PARALLELISMS = '["single", { variant = "ddp", nproc = 2 }]'
SEEDS = [0, 1, 2]
STEP_S = 0.02
# The queue is asked once a minute otherwise: jobs that end without a result are found sooner.
RUN = """
from harness.launch.slurm import queue
queue.ASK_INTERVAL_S = 5.0
from harness.cli.app import main
main()
"""
MAX_DELAY_S = 3.0
IDLE_FRACTION = 0.1  # of the moments without a rank, in which a fault happens all the same
LONG_PAUSE_S = SILENCE_S + 15.0  # others take the runs of an owner that is silent for so long
SHORT_PAUSE_S = 2.0
MAX_CUT_S = 6.0
HANG_S = 600.0  # a study without a fault and without a change for so long does not go on
FORK_SERVER = "multiprocessing.forkserver"
DONE = re.compile(r"^\S+ (\S+) done after ", re.MULTILINE)  # in the log of an element


class ClusterStudy(KilledStudy):
    """A study that a cluster trains; `train_with_faults` disturbs it.

    `faults` counts those that happened, by kind. Each kind has a weight: in as many faults as the
    sum of all weights, it happens so often.
    """

    def __init__(self, folder: Path, cluster: Cluster, seed: int) -> None:
        super().__init__(folder, seed, parallelism=PARALLELISMS, step_s=STEP_S)
        study = folder / "study.toml"
        text = study.read_text().replace("seeds = [0]", f"seeds = {SEEDS}")
        study.write_text(text.replace("[launch]\n", f"[launch]{SETTINGS}"))
        self._cluster = cluster
        self.faults: Counter[str] = Counter()
        self._started = time.monotonic()
        self._run: subprocess.Popen[bytes] | None = None
        self._first_done: dict[Path, RunStatus] = {}
        self._deck: list[str] = []
        self._kinds: dict[str, tuple[int, Callable[[], bool]]] = {
            "rank": (7, self._kill_rank),
            "element": (3, lambda: self._kill_command("_element")),
            "node agent": (4, lambda: self._kill_command("_node")),
            "step daemon": (5, self._kill_step_daemon),
            "slurmd": (5, self._restart_slurmd),
            "controller": (5, self._restart_controller),
            "node": (4, self._restart_node),
            "requeue": (5, self._requeue),
            "pause": (4, lambda: self._pause(self._job_processes, SHORT_PAUSE_S)),
            "hang of a host": (1, lambda: self._pause(self._cluster.host_processes, LONG_PAUSE_S)),
            "cut": (3, self._cut),
            "Ctrl-C of run": (2, lambda: self._end_run(signal.SIGINT)),
            "kill of run": (2, lambda: self._end_run(signal.SIGKILL)),
        }

    def run_undisturbed(self) -> dict[str, object]:
        """Return the curves of a study that runs on this host, with one thread as jobs have."""
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
        try:
            return super().run_undisturbed()
        finally:
            os.sched_setaffinity(0, cores)

    def train_with_faults(self, results: str, max_faults: int) -> None:
        """Call `run` until all runs are done; meanwhile let up to `max_faults` faults happen."""
        changed_at = time.monotonic()
        before: object = None
        while True:
            if self._run is None or self._run.poll() is not None:
                if self._is_done(results) and self._run is not None:
                    break
                self._run = self._start_run(results)
            if self.faults.total() < max_faults and self._is_moment():
                self._let_fault_happen()
            self._cluster.repair()
            self._cluster.start_requeued()
            now = self.faults.total(), self._statuses(results)
            if now != before:
                before = now
                changed_at = time.monotonic()
            assert time.monotonic() - changed_at < HANG_S, self.describe(results)
            time.sleep(self._random.uniform(0.0, MAX_DELAY_S))
        assert self._run.returncode == 0, self.describe(results)
        self._run = None
        self._cluster.wait_until_empty()
        wait_until(lambda: not self._left_processes(), "all processes of jobs have ended")

    def repeated_runs(self, results: str) -> list[str]:
        """Return the runs that were trained again after they were done."""
        repeated = []
        times = Counter(DONE.findall(self._logs(results)))
        for run in self.runs(results):
            has_changed = run.status != self._first_done.get(run.path, run.status)
            if has_changed or times[run.run_id] > 1:
                repeated.append(run.run_id)
        return repeated

    def describe(self, results: str) -> str:
        """Return what is known about a study that is not as it should be."""
        lines = [f"seed {self.seed}, faults: {dict(self.faults)}"]
        lines += [f"{run.run_id}: {run.status!r}" for run in self.runs(results)]
        lines += [str(job) for job in self._cluster.jobs()]
        lines += [self._cluster.call("sinfo", "-N", "-l"), self._logs(results)]
        lines.append((self.folder / "output.txt").read_text()[-20_000:])
        return "\n".join(lines)

    def _start_run(self, results: str) -> "subprocess.Popen[bytes]":
        failed = any(run.status.status == "failed" for run in self.runs(results))
        options = ["--on", "slurm", *(["--retry-failed"] if failed else [])]
        self._say(f"run {' '.join(options)}")
        self.env |= {name: self._cluster.env[name] for name in ("SLURM_CONF", "PATH")}
        return self._start(results, *options, program=("-c", RUN))

    def _is_done(self, results: str) -> bool:
        return {status.status for status in self._statuses(results)} == {"done"}

    def _statuses(self, results: str) -> list[RunStatus]:
        statuses = []
        for run in self.runs(results):
            statuses.append(run.status)
            if statuses[-1].status == "done":
                self._first_done.setdefault(run.path, statuses[-1])
        return statuses

    def _logs(self, results: str) -> str:
        """Return the logs of all elements, one after the other."""
        paths = sorted((self.folder / results).glob("chaos/submissions/*.log"))
        return "\n".join(f"{path.name}:\n{path.read_text()}" for path in paths)

    def _is_moment(self) -> bool:
        """Return whether a fault may happen now: usually only while a rank trains."""
        return bool(self._trainers()) or self._random.random() < IDLE_FRACTION

    def _let_fault_happen(self) -> None:
        """Let the next fault of the deck happen that is possible now, if one is."""
        if not self._deck:
            for kind, (weight, _) in self._kinds.items():
                self._deck += [kind] * weight
            self._random.shuffle(self._deck)
        for kind in dict.fromkeys(self._deck):
            started = time.monotonic()
            with contextlib.suppress(psutil.NoSuchProcess):
                if self._kinds[kind][1]():
                    self._deck.remove(kind)
                    self.faults[kind] += 1
                    took_s = time.monotonic() - started
                    self._say(f"fault {self.faults.total()}: {kind} ({took_s:.1f} s)")
                    return

    def _say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {time.monotonic() - self._started:.0f} s: {text}")
        sys.stdout.flush()

    # -- processes --------------------------------------------------------------------------------

    def _job_processes(self, node: str) -> list[psutil.Process]:
        return [p for p in self._cluster.processes(node) if not is_step_daemon(p)]

    def _all_job_processes(self) -> list[psutil.Process]:
        return [p for node in self._cluster.nodes for p in self._job_processes(node)]

    def _left_processes(self) -> list[psutil.Process]:
        """Return the processes of all hosts that are not there before the first job."""
        left = []
        for node in self._cluster.nodes:
            left += [p for p in self._cluster.host_processes(node) if p.name() != "slurmd"]
        return left

    def _trainers(self) -> list[psutil.Process]:
        """Return the ranks: the children of fork servers."""
        ranks = []
        for process in self._all_job_processes():
            with contextlib.suppress(psutil.Error):
                parent = process.parent()
                if parent is not None and FORK_SERVER in " ".join(parent.cmdline()):
                    ranks.append(process)
        return ranks

    # -- faults: each returns whether it happened -------------------------------------------------

    def _kill_rank(self) -> bool:
        return self._kill_one(self._trainers())

    def _kill_command(self, name: str) -> bool:
        processes = []
        for process in self._all_job_processes():
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                if name in command and "srun" not in command[0]:
                    processes.append(process)
        return self._kill_one(processes)

    def _kill_step_daemon(self) -> bool:
        daemons = []
        for node in self._cluster.nodes:
            daemons += [p for p in self._cluster.processes(node) if is_step_daemon(p)]
        return self._kill_one(daemons)

    def _kill_one(self, processes: list[psutil.Process]) -> bool:
        if not processes:
            return False
        self._random.choice(processes).kill()
        return True

    def _restart_slurmd(self) -> bool:
        node = self._node()
        self._cluster.kill_slurmd(node)
        time.sleep(self._random.uniform(0.0, MAX_DELAY_S))
        self._cluster.start_node(node)
        return True

    def _restart_node(self) -> bool:
        node = self._node()
        self._cluster.kill_node(node)
        self._cluster.report_down(node)
        time.sleep(self._random.uniform(0.0, MAX_DELAY_S))
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
        job = self._random.choice(running).id
        requeue = ["scontrol", "requeue", job]  # it may end before
        return subprocess.run(requeue, env=self._cluster.env).returncode == 0

    def _pause(self, processes: Callable[[str], Iterable[psutil.Process]], pause_s: float) -> bool:
        """Stop processes of one host for a while, as a hanging host does."""
        stopped = list(processes(self._node()))
        _signal(stopped, signal.SIGSTOP)
        end = time.monotonic() + pause_s
        while stopped and time.monotonic() < end:
            self._cluster.start_requeued()
            time.sleep(0.5)
        _signal(stopped, signal.SIGCONT)
        return bool(stopped)

    def _cut(self) -> bool:
        node = self._node()
        self._cluster.cut(node)
        time.sleep(self._random.uniform(0.0, MAX_CUT_S))
        self._cluster.heal(node)
        return True

    def _end_run(self, number: signal.Signals) -> bool:
        if self._run is None or self._run.poll() is not None:
            return False
        self._run.send_signal(number)
        self._run.wait()
        return True

    def _node(self) -> str:
        return self._random.choice(self._cluster.nodes)


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
