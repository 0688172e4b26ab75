"""A Slurm cluster on this machine, for tests: a controller and several nodes. Needs root.

It needs no systemd, no cgroups and no database. Nodes either share this host, or are hosts of their
own (`apart`): with their own network, host name, process ids and mounts. Accounting is off, as on
many small clusters, so that `sacct` reports nothing.
"""

import contextlib
import os
import platform
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import slurm_hosts
from command_line import is_alive
from slurm_conf import CONFIGURATION, PARTITIONS, search_path

FIRST_PORTS = range(12000, 20000)  # below those that systems give to outgoing connections
FIELDS = "%i|%T|%r|%N|%j"  # of `squeue`: those of `Job`
# Reasons of Slurm to hold a job and to drain a node, until an administrator intervenes.
HELD = "launch failed requeued held"
DRAINED = ("Duplicate jobid", "Kill task failed", "batch job complete failure")
# A killed controller takes ended jobs for running ones, for minutes unless it asks the nodes.
FORGOTTEN_S = 20.0
POLL_S = 0.1
START_AGAIN_S = 2.0
HANG_S = 300  # what has not happened after this time is not going to
ACTIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED")

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str, hang_s: float = HANG_S) -> T:
    """Poll a condition until its value is true; return this."""
    deadline = time.monotonic() + hang_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(POLL_S)
    raise AssertionError(f"waited in vain until {what}")


@dataclass(frozen=True)
class Job:
    """A job, or one task of an array, as `squeue` prints it."""

    id: str  # 123, or 123_4
    state: str
    reason: str
    nodes: str
    name: str

    @property
    def array(self) -> str:
        """The job of all tasks of an array."""
        return self.id.partition("_")[0]

    @property
    def is_active(self) -> bool:
        """Whether it is in the queue or runs."""
        return self.state in ACTIVE


class Cluster:
    """A cluster that runs from its creation to `stop()`.

    `env` is the environment in which Slurm's commands reach it. Nodes are named n1, n2, ...
    `gpus` are character devices that stand in for GPUs: Slurm sets CUDA_VISIBLE_DEVICES.
    """

    def __init__(
        self,
        nodes: int = 2,
        cpus: int = 2,
        gpus: int = 0,
        apart: bool = False,
        max_array: int = 1001,
        settings: str = "",
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ablations-slurm-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.conf = self.folder / "slurm.conf"
        self.nodes = [f"n{index}" for index in range(1, nodes + 1)]
        self._apart = apart
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._requeued: dict[str, float] = {}  # jobs, and when they were first seen to wait
        for name in ("log", "state", "bin", "dev", *(f"spool.{node}" for node in self.nodes)):
            (self.folder / name).mkdir()
        self.env = {name: value for name, value in os.environ.items() if "SLURM" not in name}
        self.env |= {"SLURM_CONF": str(self.conf), "PATH": search_path()}
        try:
            if apart:
                slurm_hosts.connect(self.folder, self.nodes)
                self.env["PATH"] = f"{self.folder}/bin:{self.env['PATH']}"
            self._configure(cpus, gpus, max_array, settings)
            self._start_munge()
            self.start_controller(clear=True)
            for node in self.nodes:
                self.start_node(node)
            wait_until(lambda: self._n_idle() == nodes, f"{nodes} nodes are idle")
        except BaseException:
            self.stop()
            raise

    # -- daemons ----------------------------------------------------------------------------------

    def start_controller(self, clear: bool = False) -> None:
        """Start the controller (again); it reads its state from files, unless that is cleared."""
        inside = slurm_hosts.inside_controller(self.folder) if self._apart else []
        self._start("slurmctld", *inside, "slurmctld", "-D", "-i", *(["-c"] if clear else []))

    def kill_controller(self) -> None:
        """Kill the controller: commands fail, jobs go on."""
        self._kill_daemon("slurmctld")

    def wait_until_saved(self) -> None:
        """Wait until the controller has saved the present state of jobs and nodes, up to 5 s.

        At least one job must run.
        """
        saved = f"saved {time.monotonic_ns()}"
        job = next(job.id for job in self.jobs() if job.state == "RUNNING")
        self.call("scontrol", "update", f"JobId={job}", f"Comment={saved}")
        self.call("scontrol", "update", f"NodeName={self.nodes[0]}", f"Comment={saved}")
        files = [self.folder / "state" / name for name in ("job_state", "node_state")]

        def is_saved() -> bool:
            with contextlib.suppress(FileNotFoundError):  # while the controller replaces one
                return all(saved.encode() in file.read_bytes() for file in files)
            return False

        wait_until(is_saved, "the controller has saved its state")

    def stop_controller(self) -> None:
        """End the controller, which saves its state."""
        self._daemons["slurmctld"].terminate()
        self._daemons.pop("slurmctld").wait()

    def start_node(self, node: str) -> None:
        """Start a node (again), or only its daemon if that was killed."""
        command = ["slurmd", "-D", "-N", node]
        if self._apart:
            if _host(node) not in self._daemons:
                self._start_host(node)
            command = slurm_hosts.enter(self._init(node).pid, *command)
        self._start(node, *command)

    def _start_host(self, node: str) -> None:
        """Start the first process of a node apart."""
        self._start(_host(node), *slurm_hosts.start_command(self.folder, node))
        wait_until(lambda: self._inits(node), f"the host of {node} has started")

    def _inits(self, node: str) -> list[psutil.Process]:
        """Return the first process of a node apart, if it has prepared the host."""
        children = psutil.Process(self._daemons[_host(node)].pid).children()
        return [child for child in children if child.name() == slurm_hosts.INIT]

    def _init(self, node: str) -> psutil.Process:
        (init,) = self._inits(node)
        return init

    def kill_node(self, node: str) -> None:
        """Kill all processes of a node, as a loss of power does.

        The daemons go first: a step's daemon that sees the end of its job reports it as failed.
        """
        processes = self.processes(node)
        for name in (node, _host(node)):
            if name in self._daemons:
                self._kill_daemon(name)
        _kill([process for process in processes if is_step_daemon(process)])
        _kill(processes)

    def report_down(self, node: str) -> None:
        """Tell the controller that a node is down, which it finds out after 30 s otherwise."""
        self.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")

    def kill_slurmd(self, node: str) -> None:
        """Kill only the daemon of a node; its jobs go on."""
        self._kill_daemon(node)

    def processes(self, node: str) -> list[psutil.Process]:
        """Return the processes of jobs on a node, and the daemons of their steps."""
        processes = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                environ = process.environ()
                if not is_alive(process):
                    continue
                if environ.get("SLURM_CONF") != str(self.conf):
                    continue
                if environ.get("SLURMD_NODENAME") != node:
                    continue
                processes[process.pid] = process
                parent = process.parent()
                if parent is not None and is_step_daemon(parent):
                    processes[parent.pid] = parent
        return list(processes.values())

    def host_processes(self, node: str) -> list[psutil.Process]:
        """Return the processes of a node apart, daemons too, except for its first one."""
        return slurm_hosts.processes(self._init(node).pid)

    def stop(self) -> None:
        """End all processes of the cluster and of its jobs, and remove its files."""
        if not self.folder.exists():
            return
        processes = list(self.all_processes())
        while processes:
            _kill(processes)
            for daemon in self._daemons.values():
                daemon.wait()
            processes = list(self.all_processes())
        if self._apart:
            slurm_hosts.disconnect(self.folder, self.nodes)
        shutil.rmtree(self.folder)

    def all_processes(self) -> Iterator[psutil.Process]:
        """Yield the living processes of the cluster, its clients and its jobs."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if not is_alive(process):
                    continue
                if process.environ().get("SLURM_CONF") == str(self.conf):
                    yield process
                    yield from process.children(recursive=True)
                elif is_step_daemon(process):  # it hides its environment
                    if any(
                        Path(file.path).is_relative_to(self.folder) for file in process.open_files()
                    ):
                        yield process

    def _start(self, name: str, *command: str) -> None:
        with open(self.folder / "log" / f"{name}.err", "ab") as log:
            self._daemons[name] = subprocess.Popen(
                command,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for pytest, which stops the cluster
            )

    def _kill_daemon(self, name: str) -> None:
        daemon = self._daemons.pop(name)
        children = psutil.Process(daemon.pid).children()  # nsenter and unshare wait for one
        _kill([*children, psutil.Process(daemon.pid)])
        daemon.wait()

    def _start_munge(self) -> None:
        """Start a munge of its own: that of the machine stays as it is."""
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        options = [f"--key-file={key}", f"--socket={self.folder}/munge.socket"]
        options += [f"--pid-file={self.folder}/munge.pid", f"--log-file={self.folder}/log/munged"]
        options += [f"--seed-file={self.folder}/munge.seed", "--num-threads=2"]
        self._start("munged", "munged", "--foreground", "--force", *options)
        wait_until((self.folder / "munge.socket").exists, "munged listens")

    def _configure(self, cpus: int, gpus: int, max_array: int, settings: str) -> None:
        port = _free_ports(1 + len(self.nodes))
        host = platform.node().split(".")[0]
        lines = CONFIGURATION.format(
            host=host,
            address=f"{slurm_hosts.NETWORK}.1" if self._apart else "127.0.0.1",
            folder=self.folder,
            port=port,
            max_array=max_array,
        )
        gres = ""
        if gpus:
            lines += "GresTypes=gpu\n"
            gres = f"Gres=gpu:{gpus}"
            for gpu in range(gpus):
                os.mknod(self.folder / f"dev/nvidia{gpu}", 0o20666, os.makedev(1, 3))
            devices = f"Name=gpu File={self.folder}/dev/nvidia[0-{gpus - 1}]\n"
            (self.folder / "gres.conf").write_text(devices)
        for index, node in enumerate(self.nodes, start=1):
            where = f"NodeHostname={host} NodeAddr=127.0.0.1"
            if self._apart:
                where = f"NodeHostname={node} NodeAddr={slurm_hosts.NETWORK}.{index + 10}"
            size = f"CPUs={cpus} Sockets=1 CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory=2000"
            lines += f"NodeName={node} {where} Port={port + index} {size} {gres} State=UNKNOWN\n"
        self.conf.write_text(f"{lines}{PARTITIONS}{settings}")

    # -- the network of nodes apart ---------------------------------------------------------------

    def cut(self, node: str) -> None:
        """Cut a node off the network of nodes apart."""
        slurm_hosts.set_link(self.folder, node, "down")

    def heal(self, node: str) -> None:
        """Connect a node that was cut off."""
        slurm_hosts.set_link(self.folder, node, "up")

    # -- jobs -------------------------------------------------------------------------------------

    def call(self, *command: str) -> str:
        """Run a command of Slurm's, which must succeed; return what it printed."""
        finished = subprocess.run(command, env=self.env, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    def jobs(self) -> list[Job]:
        """Return the jobs of the last five minutes, each task of an array as one."""
        jobs = []
        for line in self.call("squeue", "-a", "-h", "-r", "-t", "all", "-o", FIELDS).splitlines():
            jobs.append(Job(*line.split("|")))
        return jobs

    def active_jobs(self) -> list[Job]:
        """Return the jobs that are in the queue or run."""
        return [job for job in self.jobs() if job.is_active]

    def wait_until_empty(self, hang_s: float = HANG_S) -> None:
        """Wait until no job is in the queue; jobs that were requeued start at once."""

        ask_at = time.monotonic() + FORGOTTEN_S

        def is_empty() -> bool:
            nonlocal ask_at
            if time.monotonic() >= ask_at:
                self.call("scontrol", "reconfigure")  # the nodes report the jobs that they have
                ask_at = time.monotonic() + FORGOTTEN_S
            self.repair()
            self.start_requeued()
            return not self.active_jobs()

        try:
            wait_until(is_empty, "the queue is empty")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.active_jobs()}\n{self.call('sinfo')}") from None

    def start_requeued(self) -> None:
        """Let jobs that were requeued start after 2 s: Slurm lets them wait for 120 s.

        A node does not start a job again in the second in which it has ended.
        """
        waiting = {job.id for job in self.jobs() if job.reason == "BeginTime"}
        now = time.monotonic()
        self._requeued = {job: self._requeued.get(job, now) for job in waiting}
        for job, since in self._requeued.items():
            if now - since >= START_AGAIN_S:
                self._try("update", f"JobId={job}", "StartTime=now")

    def repair(self) -> None:
        """Release the jobs and resume the nodes that wait for an administrator.

        A killed controller forgets the last 5 s. It starts jobs again that run since then, their
        nodes refuse that, and it holds the jobs and drains the nodes.
        """
        for job in self.jobs():
            if job.state == "PENDING" and job.reason == HELD:
                self._try("release", job.id)
        for line in self.call("sinfo", "-h", "-N", "-p", "main", "-o", "%n|%T|%E").splitlines():
            node, state, reason = line.split("|")
            if "drain" in state and reason in DRAINED:
                self._try("update", f"NodeName={node}", "State=RESUME")

    def _try(self, *command: str) -> None:
        """Call scontrol for a job or node whose state may have changed."""
        subprocess.run(["scontrol", *command], env=self.env, capture_output=True)

    def answers(self) -> bool:
        """Return whether the controller answers."""
        ping = subprocess.run(["scontrol", "ping"], env=self.env, capture_output=True, text=True)
        return "UP" in ping.stdout

    def _n_idle(self) -> int:
        command = ["sinfo", "-h", "-N", "-p", "main", "-t", "idle", "-o", "%n"]
        finished = subprocess.run(command, env=self.env, capture_output=True, text=True)
        return len(finished.stdout.split())


def is_step_daemon(process: psutil.Process) -> bool:
    """Return whether a process lives and is Slurm's daemon of a job's step."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.name().startswith("slurmstepd")
    return False


def _host(node: str) -> str:
    """Return the name of the first process of a node apart, as a daemon."""
    return f"host.{node}"


def _free_ports(n: int) -> int:
    """Return the first of `n` neighbouring ports that no process listens on."""
    while True:
        first = random.choice(FIRST_PORTS)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + n):
                listener = stack.enter_context(socket.socket())
                listener.bind(("127.0.0.1", port))
            return first


def _kill(processes: list[psutil.Process]) -> None:
    """Kill processes and wait for their end; those that nobody reaps remain as zombies."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    while any(is_alive(process) for process in processes):
        time.sleep(0.01)
