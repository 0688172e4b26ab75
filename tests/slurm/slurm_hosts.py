"""Nodes of a cluster as hosts of their own: with their own network, name, process ids and mounts.

The names of network namespaces begin with that of the cluster's folder.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil
from command_line import is_alive

NETWORK = "10.231.0"  # only inside of the namespaces
CLIENTS = "sbatch srun squeue scancel scontrol sinfo sacct salloc sstat".split()
INIT = "sleep"  # the first process of a host
# Clients reach the controller from within its network only.
WRAPPER = """#!/bin/sh
[ -n "$SLURMD_NODENAME" ] && exec {tool} "$@"
exec nsenter --net=/var/run/netns/{controller} {tool} "$@"
"""


def connect(folder: Path, nodes: Sequence[str]) -> None:
    """Make a network of controller and nodes, and commands in `folder`/bin that enter it."""
    controller = _controller(folder)
    _ip("netns", "add", controller)
    inside = ["-n", controller]
    _ip(*inside, "link", "set", "lo", "up")
    _ip(*inside, "link", "add", "br0", "type", "bridge")
    _ip(*inside, "addr", "add", f"{NETWORK}.1/24", "dev", "br0")
    _ip(*inside, "link", "set", "br0", "up")
    hosts = f"127.0.0.1 localhost\n{NETWORK}.1 ctl\n"
    for index, node in enumerate(nodes, start=11):
        name = _namespace(folder, node)
        hosts += f"{NETWORK}.{index} {node}\n"
        _ip("netns", "add", name)
        peer = ["peer", "name", "eth0", "netns", name]
        _ip(*inside, "link", "add", node, "type", "veth", *peer)
        _ip(*inside, "link", "set", node, "master", "br0", "up")
        _ip("-n", name, "addr", "add", f"{NETWORK}.{index}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")
    (folder / "hosts").write_text(hosts)
    for tool in CLIENTS:
        wrapper = folder / "bin" / tool
        wrapper.write_text(WRAPPER.format(tool=shutil.which(tool), controller=controller))
        wrapper.chmod(0o755)


def disconnect(folder: Path, nodes: Sequence[str]) -> None:
    """Remove the network."""
    for name in (_controller(folder), *(_namespace(folder, node) for node in nodes)):
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


def set_link(folder: Path, node: str, state: str) -> None:
    """Set the link between a node and the others `up` or `down`."""
    _ip("-n", _controller(folder), "link", "set", node, state)


def start_command(folder: Path, node: str) -> list[str]:
    """Return the command that starts a host.

    Its child is the first process of the host, with which all others end.
    """
    hosts = f"mount --bind {folder}/hosts /etc/hosts"
    script = f"hostname {node} && {hosts} && trap '' CHLD && exec {INIT} infinity"
    namespaces = ["unshare", "--uts", "--pid", "--mount", "--fork", "--kill-child"]
    enter_network = ["nsenter", f"--net=/var/run/netns/{_namespace(folder, node)}"]
    return [*enter_network, *namespaces, "--mount-proc", "sh", "-c", script]


def enter(init: int, *command: str) -> list[str]:
    """Return the command line that runs a command on the host of that first process."""
    return ["nsenter", "-t", str(init), "--net", "--uts", "--pid", "--mount", *command]


def inside_controller(folder: Path) -> list[str]:
    """Return the beginning of a command line that runs in the controller's network."""
    return ["nsenter", f"--net=/var/run/netns/{_controller(folder)}"]


def processes(init: int) -> list[psutil.Process]:
    """Return the living processes of the host of that first process, except for it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            is_on_host = _pid_namespace(process.pid) == _pid_namespace(init)
            if is_on_host and process.pid != init and is_alive(process):
                found.append(process)
    return found


def _pid_namespace(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/pid")


def _controller(folder: Path) -> str:
    return f"{folder.name}-ctl"


def _namespace(folder: Path, node: str) -> str:
    return f"{folder.name}-{node}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
