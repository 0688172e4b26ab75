"""Without these, runs would train on GPUs that the user or another process has taken."""

import pytest

from harness.launch import gpus

A = "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77"
B = "GPU-aaaaaaaa-d33d-2b2c-524d-9e3d8d2b8a77"
M = "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"
N = "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb"
PLAIN = f"""\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: {A})
GPU 1: NVIDIA H100 80GB HBM3 (UUID: {B})
"""
MIG = f"""\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: {A})
  MIG 3g.20gb     Device  0: (UUID: {M})
  MIG 2g.10gb     Device  1: (UUID: {N})
GPU 1: NVIDIA A100-SXM4-40GB (UUID: {B})
"""
# Drivers before R470 name an instance by its GPU.
OLD_MIG = f"""\
GPU 0: A100-SXM4-40GB (UUID: {A})
  MIG 1g.5gb Device 0: (UUID: MIG-{A}/7/0)
"""


@pytest.fixture(autouse=True)
def _ask_again():
    gpus._installed.cache_clear()
    yield
    gpus._installed.cache_clear()


@pytest.mark.parametrize(
    ("listed", "devices"),
    [
        (PLAIN, [A, B]),
        (MIG, [M, N, B]),
        (OLD_MIG, [f"MIG-{A}/7/0"]),
        ("No devices found.\n", []),
        ("", []),
    ],
)
def test_listed_devices(listed, devices):
    assert gpus.parse_list(listed) == devices


@pytest.mark.parametrize(
    ("value", "devices"),
    [
        ("2,0", ["2", "0"]),
        (f" {A} , {M}", [A, M]),
        ("0,-1,1", ["0"]),
        ("", []),
        ("NoDevFiles", []),
    ],
)
def test_an_outer_setting_is_kept(value, devices, monkeypatch):
    calls = []
    monkeypatch.setattr(gpus, "_smi", lambda *arguments: calls.append(arguments) or PLAIN)
    assert gpus.visible({"CUDA_VISIBLE_DEVICES": value}) == devices
    assert gpus.visible({}) == gpus.visible({}) == [A, B]
    assert calls == [("-L",)]  # with many GPUs it takes seconds


def test_without_the_tool_devices_are_unknown(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.visible({}) is None and gpus.in_use() == {}


def test_processes_that_hold_memory_are_named():
    text = f"{A}, 123, 20480 MiB\n{A}, 124, 5 MiB\n{B}, 9, [N/A]\nno such line\n"
    assert gpus.parse_processes(text) == {
        A: "process 123 holds 20480 MiB, process 124 holds 5 MiB",
        B: "process 9 holds [N/A]",
    }


SIZES = f"0, {A}, 40960\n1, {B}, 81920\n"


@pytest.mark.parametrize(
    ("devices", "mib"),
    [
        (["0"], 40960),
        ([A, B], 81920),
        (["GPU-5d5ba0d6"], 40960),
        (["1", "0"], 81920),
        ([], None),
        ([A, M], None),
        (["2"], None),
        (["GPU-"], None),
    ],
)
def test_the_memory_of_the_largest_gpu(devices, mib):
    expected = None if mib is None else mib * 2**20
    assert gpus.parse_memory(SIZES, devices) == expected
    assert gpus.parse_memory(f"0, {A}, [N/A]\n", [A]) is None
