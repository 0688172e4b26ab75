"""A damaged file is named and excludes only its own run from `status` and `report`."""

import contextlib
import io
import re
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.cli.app import main

FILES = (
    "spec.json",
    "status.json",
    "probes.json",
    "env.json",
    "eval.jsonl",
    "steps.rank0.jsonl",
    "launches.jsonl",
)


@pytest.fixture
def healthy(fake, no_figures):
    """A study of two runs, and the output of commands on a copy of it."""
    fake.axes = {"positional": ["learned"], "attention": ["mha", "gqa2"], "parallelism": ["single"]}
    fake.seeds, fake.decode, fake.lengths = (0,), ([1], [64]), [64]
    fake.write()
    return fake


def output_of(command, root):
    out = io.StringIO()
    options = ["--out", str(root.parent / "reports")] if command == "report" else []
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
        pytest.raises(SystemExit) as end,
    ):
        main([command, "tiny", "--results", str(root), *options])
    return out.getvalue(), end.value.code


@pytest.mark.parametrize("name", FILES[:-1])
@pytest.mark.parametrize("text", ["", "{", "[]\n", "\x00" * 50, '{"schema_version": 1}\n'])
def test_a_damaged_file_is_named_and_the_other_run_is_reported(healthy, name, text):
    store = healthy.store
    broken = next(run for run in store.runs("tiny") if "gqa2" in run.run_id)
    path = broken.path / name
    path.write_text(text + ("\n" if name.endswith("l") and text else ""))
    out, code = output_of("status", healthy.root)
    assert code == 0 and (name != "status.json" or (broken.run_id in out and name in out))
    out, code = output_of("report", healthy.root)
    assert code == 0, out
    page = (healthy.root.parent / "reports/tiny/report.md").read_text()
    assert re.search(r"^\| (?:learned · )?mha\b.*\d\.\d{4}", page, re.MULTILINE)
    if name != "env.json" or text != '{"schema_version": 1}\n':
        assert broken.run_id in page and name.split("0")[0] in page


def harm(data: bytes, where: float, how: str, junk: bytes) -> bytes:
    at = int(where * len(data))
    return {
        "cut": data[:at],
        "put": data[:at] + junk + data[at + len(junk) :],
        "in": data[:at] + junk + data[at:],
        "out": data[:at] + data[at + len(junk) :],
        "junk": junk,
    }[how]


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(FILES),
    where=st.floats(0, 0.999),
    how=st.sampled_from(["cut", "put", "in", "out", "junk"]),
    junk=st.binary(min_size=1, max_size=8)
    | st.sampled_from([b"null", b"[]", b"{}", b"-1", b'"', b"\n", b"1e999"]),
)
def test_no_damage_to_a_file_crashes_a_command(healthy, name, where, how, junk):
    run = next(run for run in healthy.store.runs("tiny") if "gqa2" in run.run_id)
    path = (run.path.parent if name == "launches.jsonl" else run.path) / name
    before = path.read_bytes()
    path.write_bytes(harm(before, where, how, junk))
    try:
        for command in ("status", "report"):
            out, code = output_of(command, healthy.root)
            assert code == 0 or (code == 2 and "error" in out), out
    finally:
        path.write_bytes(before)
        shutil.rmtree(healthy.root.parent / "reports", ignore_errors=True)
