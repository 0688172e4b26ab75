"""The ratios of `make bench` and their baseline, worked out by hand on invented seconds."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import baseline
import peak_memory
import pytest
import ratios


def made(ratio, low, high, peer="peer", benchmark="b"):
    return ratios.Ratio(benchmark, 1.0, peer, ratio, ratio, (low, high))


def test_the_ratio_is_that_of_the_rounds():
    found = ratios.ratio("b", [1.0, 2.0, 4.0], "peer", [2.0, 6.0, 16.0])  # 2, 3, 4
    assert (found.ours_s, found.peer_s, found.ratio) == (2.0, 6.0, 3.0)
    assert 2.0 <= found.ci95[0] < 3.0 < found.ci95[1] <= 4.0


def test_a_machine_that_slows_down_counts_for_neither_side():
    ours_s = [1.0, 1.5, 4.0, 9.0]
    assert ratios.ratio("b", ours_s, "peer", [2 * s for s in ours_s]).ci95 == (2.0, 2.0)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (made(2.00, 1.70, 2.30), made(1.00, 0.95, 1.05), "slower"),
        (made(2.00, 1.70, 2.30), made(1.00, 0.80, 1.75), "same"),  # the intervals overlap
        (
            made(2.00, 1.99, 2.01),
            made(1.95, 1.94, 1.96),
            "same",
        ),  # they do not, but so much differs from run to run
        (made(2.00, 1.99, 2.01), made(2.05, 2.04, 2.06), "same"),
        (made(2.00, 1.70, 2.30), made(3.00, 2.90, 3.10), "faster"),
        (made(2.00, 1.70, 2.30), made(1.00, 0.95, 1.05, peer="another"), "new"),
        (made(2.00, 1.70, 2.30), made(1.00, 0.95, 1.05, benchmark="another"), "new"),
    ],
)
def test_slower_is_only_what_neither_interval_nor_noise_explains(before, now, expected):
    assert baseline.verdicts([now], {"b": before}) == {now.benchmark: expected}


def test_what_was_written_is_read_again(tmp_path):
    found = [made(2.0, 1.5, 2.5), made(3.0, 2.5, 3.5, benchmark="c")]
    ratios.write(tmp_path / "bench/ratios.json", found)
    assert baseline.read(tmp_path / "bench/ratios.json") == {"b": found[0], "c": found[1]}
    keys = {"benchmark", "ours_s", "peer", "peer_s", "ratio", "ci95"}
    assert all(
        record.keys() == keys for record in json.loads((tmp_path / "bench/ratios.json").read_text())
    )


@pytest.mark.parametrize("text", [None, "", "{}x", '["b"]', '[{"benchmark": "b"}]'])
def test_another_file_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "file.json").write_text(text)
    with pytest.raises(ValueError, match=r"file\.json: no results of an earlier run"):
        baseline.read(tmp_path / "file.json")


def peak(ours_bytes, peer="peer", benchmark="m"):
    return peak_memory.Peak(benchmark, ours_bytes, peer, 1000, ours_bytes / 1000)


def test_a_folder_has_times_and_peaks(tmp_path):
    """Without its peaks a change that doubles the memory would pass."""
    with pytest.raises(ValueError, match=r"neither ratios\.json nor memory\.json"):
        baseline.read(tmp_path)
    peak_memory.write(tmp_path / "memory.json", [peak(600)])
    assert baseline.read(tmp_path) == {"m": peak(600)} == baseline.read(tmp_path / "memory.json")
    ratios.write(tmp_path / "ratios.json", [made(2.0, 1.5, 2.5)])
    assert baseline.read(tmp_path) == {"b": made(2.0, 1.5, 2.5), "m": peak(600)}


@pytest.mark.parametrize(
    ("now", "expected", "problems"),
    [
        (peak(600), "same", []),
        (peak(605), "same", []),
        (peak(607), "more", ["m: more memory"]),
        (peak(590), "less", []),
        (peak(600, peer="other"), "new", ["m: compared with other, with peer before"]),
        (peak(600, benchmark="n"), "new", ["m: only in the earlier run"]),
        (made(1.0, 1.0, 1.0, benchmark="m"), "new", []),
    ],
)
def test_more_memory_fails_the_comparison(now, expected, problems):
    before = {"m": peak(600)}
    assert baseline.verdicts([now], before) == {now.benchmark: expected}
    assert baseline.problems([now], before, lambda name: True) == problems


BEFORE = {"a": made(1.0, 0.99, 1.01, benchmark="a"), "b": made(2.0, 1.99, 2.01, benchmark="b")}
UNCHANGED = list(BEFORE.values())
RENAMED = [BEFORE["a"], made(0.2, 0.19, 0.21, benchmark="c")]
OTHER_PEER = [BEFORE["a"], made(0.2, 0.19, 0.21, benchmark="b", peer="another")]
SLOWER = [BEFORE["a"], made(0.2, 0.19, 0.21, benchmark="b")]


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (UNCHANGED, []),
        ([*UNCHANGED, made(0.2, 0.19, 0.21, benchmark="new")], []),
        (SLOWER, ["b: slower"]),
        (RENAMED, ["b: only in the earlier run"]),
        (UNCHANGED[:1], ["b: only in the earlier run"]),
        (OTHER_PEER, ["b: compared with another, with peer before"]),
        ([], ["a: only in the earlier run", "b: only in the earlier run"]),
    ],
    ids=["unchanged", "added", "slower", "renamed", "removed", "other peer", "empty"],
)
def test_no_benchmark_escapes_the_comparison(now, expected):
    """A benchmark that was renamed and became ten times slower would pass."""
    assert baseline.problems(now, BEFORE, lambda name: True) == expected


def test_only_what_was_to_be_measured_is_missing():
    assert baseline.problems(UNCHANGED[:1], BEFORE, lambda name: name == "a") == []
    assert baseline.problems([], BEFORE, lambda name: False) == [
        "this run has no benchmark in common with the earlier run"
    ]
    assert baseline.problems(UNCHANGED, {}, lambda name: True) == [
        "the earlier run has no benchmarks to compare with"
    ]


def test_the_command_fails_by_name(tmp_path):
    """`make bench BASELINE=` is what a pull request is judged by."""
    folder = tmp_path / "tests/benchmarks"
    folder.mkdir(parents=True)
    for name in ("conftest.py", "ratios.py", "peak_memory.py", "baseline.py"):
        shutil.copy(Path(ratios.__file__).with_name(name), folder)
    (folder / "test_made.py").write_text(
        "def test_decode(compare):\n"
        "    compare(ours=lambda: None, peer='p', theirs=lambda: None, rounds=2)\n"
    )
    file = tmp_path / "ratios.json"
    ratios.write(file, [made(1e-9, 1e-9, 1e-9, peer="p", benchmark="gone")])
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", tmp_path]
    # pytest-benchmark measures nothing in a worker of xdist, which it recognizes by these.
    environment = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    finished = subprocess.run(
        [*map(str, command), folder, "--baseline", file],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment | {"PYTHONPATH": str(Path(ratios.__file__).parents[2])},
    )
    assert finished.returncode == 1, finished.stdout + finished.stderr
    assert f"FAILED against {file}: gone: only in the earlier run" in finished.stdout
    assert f"compared with {file}: 0 of 1 benchmarks" in finished.stdout
