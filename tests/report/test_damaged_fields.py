"""A value of another type in a result file gives a report, or drops its run by name.

Every field of every file is replaced by each type of JSON and removed, in the reader. What the
reader accepts must pass through the commands, of which a sample is tried.
"""

import contextlib
import copy
import json
import random
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import call

import harness
from harness.errors import StoreError
from harness.results.records.study_summary import Unreadable
from harness.results.run_data import read_run
from harness.results.store import Store

FILES = ("spec.json", "status.json", "env.json", "probes.json", "eval.jsonl", "steps.rank0.jsonl")
REMOVED = object()
VALUES = (None, True, 3, -1, 10**18, 2**64 - 1, 1e300, 0.5, "x", "", [], [1], {}, {"a": 1}, REMOVED)
N_REPORTED = 5  # accepted mutations of each file that are reported
DIGITS = b"9" * 5000
MARKUP = '<img src=x onerror="alert(1)"> <b>bold</b> &amp; <script>alert(2)</script>'


@dataclass(frozen=True)
class Target:
    """A file of a run of a synthetic study; the last line of a file of lines is changed."""

    path: Path
    content: bytes

    @property
    def lines(self) -> list[bytes]:
        return self.content.splitlines() if self.path.suffix == ".jsonl" else [self.content]

    def write(self, value: object) -> None:
        self.write_text(json.dumps(value).encode())

    def write_text(self, text: bytes) -> None:
        end = b"\n" if self.path.suffix == ".jsonl" else b""
        self.path.write_bytes(b"\n".join([*self.lines[:-1], text]) + end)

    def mutations(self) -> list[object]:
        """Return the content with each of its values replaced by each of `VALUES`."""
        whole = json.loads(self.lines[-1])
        changed = [value for value in VALUES if value is not REMOVED]
        for keys in key_paths(whole):
            changed += [replaced(whole, keys, value) for value in VALUES]
        return [value for value in changed if value != whole]


def key_paths(value, keys=()):
    """Yield the key path of each value within a JSON value; of a list, of its first item."""
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = list(enumerate(value))[:1]
    for key, item in items:
        yield (*keys, key)
        yield from key_paths(item, (*keys, key))


def replaced(whole, keys, value):
    """Return a copy of a JSON value in which the value at `keys` is another, or is removed."""
    whole = copy.deepcopy(whole)
    table = whole
    for key in keys[:-1]:
        table = table[key]
    if value is REMOVED:
        del table[keys[-1]]
    else:
        table[keys[-1]] = value
    return whole


def item(whole, keys):
    for key in keys:
        whole = whole[key]
    return whole


@pytest.fixture
def healthy(fake, no_figures):
    """A study of two entries and two seeds, of which files of one run are damaged."""
    fake.axes = {"positional": ["learned"], "attention": ["mha", "gqa2"], "parallelism": ["single"]}
    fake.seeds, fake.decode, fake.lengths = (0, 1), ([1], [64]), [64]
    fake.name = "other"  # to compare with
    fake.write()
    fake.name = "tiny"
    return fake.write()


@pytest.fixture
def target(healthy):
    """Return a function that returns a file of the damaged run by its name."""

    def find(name):
        run = damaged_run(healthy)
        path = (run.path.parent if name == "launches.jsonl" else run.path) / name
        return Target(path, path.read_bytes())

    return find


def damaged_run(study):
    return next(run for run in Store(study.root).runs("tiny") if "gqa2" in run.run_id)


def run_all_commands(study):
    """Run every command that reads results; return the report."""
    out = study.root.parent
    results = ("--results", study.root)
    call("status", "tiny", *results)
    call("report", "tiny", *results, "--out", out / "reports")
    call("export", "tiny", "--to", "csv", *results, "--out", out / "exports")
    call("compare", "tiny", "other", *results, "--out", out / "reports")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "left out: ")
        assert len(harness.load(study.root, "tiny").runs)
    return (out / "reports/tiny/report.md").read_text()


@pytest.mark.parametrize("name", FILES)
def test_the_reader_takes_a_run_or_names_the_file(healthy, target, name):
    file = target(name)
    accepted = []
    for value in file.mutations():
        file.write(value)
        result = read_run(damaged_run(healthy))
        if isinstance(result, Unreadable):
            assert name.split("0")[0] in result.why, (value, result.why)
        else:
            accepted.append(value)
    n_refused = len(file.mutations()) - len(accepted)
    assert n_refused > len(accepted) / 4, "hardly any value is refused: are the types checked?"
    for value in random.Random(0).sample(accepted, min(N_REPORTED, len(accepted))):
        file.write(value)
        run_all_commands(healthy)


def test_a_damaged_launch_is_named_or_reported(healthy, target):
    file = target("launches.jsonl")
    for value in file.mutations():
        file.write(value)
        with contextlib.suppress(StoreError):
            healthy.store.launches("tiny")
    for value in random.Random(0).sample(file.mutations(), N_REPORTED):
        file.write(value)
        run_all_commands(healthy)


@pytest.mark.parametrize("name", FILES)
def test_a_number_as_a_text_is_refused(healthy, target, name):
    """NumPy would convert it."""
    file = target(name)
    whole = json.loads(file.lines[-1])
    for keys in key_paths(whole):
        value = item(whole, keys)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        file.write(replaced(whole, keys, str(value)))
        result = read_run(damaged_run(healthy))
        assert isinstance(result, Unreadable) and name.split("0")[0] in result.why, keys


@pytest.mark.parametrize("name", [*FILES, "launches.jsonl"])
def test_an_integer_of_many_digits_is_named(healthy, target, name):
    target(name).write_text(b'{"schema_version": ' + DIGITS + b"}")
    assert name.split("0")[0] in run_all_commands(healthy)


def test_markup_in_results_is_text_in_the_report(healthy, target):
    """Labels and messages come from files of others; a browser must not run them."""
    file = target("spec.json")
    spec = json.loads(file.content)
    spec["axes"]["attention"]["label"] = MARKUP
    spec["entry"] = f"learned-{MARKUP}-single"
    spec["data"]["corpus"] = MARKUP
    file.write(spec)
    file = target("env.json")
    file.write(json.loads(file.content) | {"host": MARKUP, "cpu": MARKUP})
    status = target("status.json")
    failure = {"status": "failed", "reason": "error", "message": MARKUP}
    status.write(json.loads(status.content) | failure)
    (status.path.parent / "log.txt").write_text(f"```\n{MARKUP}\n")
    launches = target("launches.jsonl")
    launches.write(json.loads(launches.lines[-1]) | {"note": MARKUP, "command": MARKUP})
    report = run_all_commands(healthy)
    page = (healthy.root.parent / "reports/tiny/index.html").read_text()
    assert "onerror" in report and "onerror" in page
    for text in (outside_code(report), page):
        assert "<img src" not in text and "<b>bold" not in text and "<script>alert" not in text


def outside_code(markdown):
    """Return the Markdown without its blocks and spans of code, in which markup is text."""
    lines = []
    fence = None
    for line in markdown.splitlines():
        start = line[: len(line) - len(line.lstrip("`"))]
        if fence is None and len(start) >= 3:
            fence = start
        elif fence is not None and line == fence:
            fence = None
        elif fence is None:
            lines.append(line)
    spans = "\n".join(lines).split("`")
    return "".join(spans[::2])
