"""The longest names that a study may have pass through every command and exporter."""

import pytest
from command_line import call

from harness.study.names import MAX_ENTRY, MAX_LABEL, shorten
from harness.study.study_file import MAX_NAME

FORMATS = ["csv", "latex", "parquet", "tensorboard", "wandb", "mlflow"]
PACKAGES = {"parquet": "pyarrow"}
NAME = "n" * MAX_NAME


@pytest.fixture
def longest(fake, no_figures, monkeypatch):
    """A study whose labels, entries and name are as long as they may be."""
    fake.name = NAME
    a, b = ("x" * (MAX_LABEL - 1) + end for end in "ab")
    fake.axes = {"positional": [a], "attention": [a, b], "parallelism": ["single"]}
    fake.baseline = {axis: labels[0] for axis, labels in fake.axes.items()}
    store_run = type(fake.store).run

    def short_id(store, study, run_id):
        entry, _, rest = run_id.partition("-s0")
        return store_run(store, study, f"{shorten(entry, MAX_ENTRY)}-s999998d999999{rest}")

    monkeypatch.setattr(type(fake.store), "run", short_id)
    return fake.write()


@pytest.mark.filterwarnings("ignore")  # of the tools' own
@pytest.mark.parametrize("to", FORMATS)
def test_an_exporter_takes_the_longest_names(longest, tmp_path, to):
    pytest.importorskip(PACKAGES.get(to, "json" if to in ("csv", "latex") else to))
    out = tmp_path / "exports"
    call("export", NAME, "--to", to, "--results", longest.root, "--out", out)
    assert any(path.is_file() for path in out.rglob("*"))


def test_a_command_takes_the_longest_names(longest, tmp_path):
    results = ("--results", longest.root)
    call("status", NAME, *results)
    call("report", NAME, *results, "--out", tmp_path / "reports")
    longest.name = "m" * MAX_NAME
    longest.write()
    commit = longest.environment(1)["git_commit"]
    sides = (f"{NAME}@{commit}", f"{longest.name}@{commit}")
    call("compare", *sides, *results, "--out", tmp_path / "reports")
