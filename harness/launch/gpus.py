"""Find the GPUs of this machine, and which ones other processes use, without starting CUDA."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache

SMI_TIMEOUT_S = 30.0
FAKE = "ABLATIONS_DEVICES"
FAKE_NAME = "fake-"

# Lines of `nvidia-smi -L`: `GPU 0: NVIDIA A100 (UUID: GPU-...)`, and indented below a GPU in MIG
# mode `MIG 3g.20gb Device 0: (UUID: MIG-...)`.
LISTED = re.compile(r"(?P<kind>GPU|MIG) .*\(UUID: (?P<uuid>[^)\s]+)\)\s*$")


def visible(environment: Mapping[str, str]) -> list[str] | None:
    """Return the values for CUDA_VISIBLE_DEVICES of the GPUs that runs may use; None if unknown.

    Those of CUDA_VISIBLE_DEVICES are kept as they are (indices, UUIDs, MIG UUIDs). Without it, they
    are the UUIDs of all GPUs, and of the instances of GPUs in MIG mode. `ABLATIONS_DEVICES=N` makes
    N devices that do not exist, for tests: each rank of a run, on a CPU, takes one of them.
    """
    n_fake = environment.get(FAKE, "")
    if n_fake.isdecimal():
        return [f"{FAKE_NAME}{i}" for i in range(int(n_fake))]
    outer = environment.get("CUDA_VISIBLE_DEVICES")
    if outer is not None:
        return parse_visible(outer)
    listed = _installed()
    return None if listed is None else list(listed)


@cache
def _installed() -> tuple[str, ...] | None:
    """Return the GPUs of this machine, which do not change; None if they are unknown."""
    listed = _smi("-L")
    return None if listed is None else tuple(parse_list(listed))


def is_fake(device: str) -> bool:
    """Return whether a device is one of `ABLATIONS_DEVICES`."""
    return device.startswith(FAKE_NAME)


def parse_visible(value: str) -> list[str]:
    """Return the devices that CUDA_VISIBLE_DEVICES names: as for CUDA, those before `-1`."""
    devices: list[str] = []
    for name in value.split(","):
        if name.strip() in ("", "-1", "NoDevFiles"):
            break
        devices.append(name.strip())
    return devices


def parse_list(listed: str) -> list[str]:
    """Return the UUIDs in the output of `nvidia-smi -L`: of MIG instances instead of their GPU."""
    uuids: list[str] = []
    gpu: str | None = None
    for line in listed.splitlines():
        found = LISTED.match(line.strip())
        if found is None:
            continue
        if found["kind"] == "GPU":
            gpu = found["uuid"]
        elif gpu is not None and gpu in uuids:
            uuids.remove(gpu)
        uuids.append(found["uuid"])
    return uuids


def largest_memory(devices: Sequence[str]) -> int | None:
    """Return the memory of the largest of some devices, in bytes; None if one is unknown.

    That of a MIG instance is unknown.
    """
    text = _smi("--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits")
    return None if text is None else parse_memory(text, devices)


def parse_memory(text: str, devices: Sequence[str]) -> int | None:
    """Return the largest memory of the devices in lines `index, UUID, MiB`, in bytes."""
    sizes = []
    rows = [[field.strip() for field in line.split(",")] for line in text.splitlines()]
    for device in devices:
        found = [
            row[2]
            for row in rows
            if len(row) == 3
            and (row[0] == device or (device.startswith("GPU-") and row[1].startswith(device)))
        ]
        if len(found) != 1 or not found[0].isdecimal():
            return None
        sizes.append(int(found[0]) << 20)
    return max(sizes, default=None)


def in_use() -> dict[str, str]:
    """Return for each GPU on which processes hold memory, by UUID, a text that names them."""
    text = _smi("--query-compute-apps=gpu_uuid,pid,used_memory", "--format=csv,noheader")
    return {} if text is None else parse_processes(text)


def parse_processes(text: str) -> dict[str, str]:
    """Return the processes of each GPU from the lines `UUID, process id, memory`."""
    users: dict[str, list[str]] = {}
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 3 and fields[0].startswith(("GPU-", "MIG-")):
            users.setdefault(fields[0], []).append(f"process {fields[1]} holds {fields[2]}")
    return {uuid: ", ".join(processes) for uuid, processes in users.items()}


def _smi(*arguments: str) -> str | None:
    """Return what nvidia-smi prints; None if it is not installed or fails."""
    try:
        finished = subprocess.run(
            ["nvidia-smi", *arguments],
            capture_output=True,
            text=True,
            timeout=SMI_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return finished.stdout
