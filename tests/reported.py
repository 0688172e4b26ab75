"""Write the report of a synthetic study and read it back, for tests of the analysis."""

import json
from pathlib import Path

from synthetic_results import SyntheticStudy

from harness import report
from harness.results.files import read_json, write_json
from harness.results.run import Run

MHA, GQA = "rope-mha-single", "rope-gqa2-single"  # the entries of `two_entries`


def two_entries(fake: SyntheticStudy) -> SyntheticStudy:
    """Write a study of two entries that differ in attention, of two seeds, without probes."""
    fake.axes = {"positional": ["rope"], "attention": ["mha", "gqa2"], "parallelism": ["single"]}
    fake.baseline, fake.seeds, fake.steps = {"attention": "mha"}, (0, 1), 4
    return fake.write()


def run_of(fake: SyntheticStudy, entry: str, seed: int) -> Run:
    """Return one run."""
    runs = fake.store.runs(fake.name)
    return next(run for run in runs if run.run_id.startswith(f"{entry}-s{seed}-"))


def plant(fake: SyntheticStudy, entry: str, seed: int, **probes: object) -> None:
    """Replace these probes of one run."""
    path = run_of(fake, entry, seed).path / "probes.json"
    write_json(path, read_json(path) | probes)


def written(fake: SyntheticStudy) -> tuple[str, dict, Path]:
    """Return report.md, summary.json, and the folder of the report."""
    folder = report.write(fake.store, fake.name, fake.root.parent / "reports")
    return (
        (folder / "report.md").read_text(),
        json.loads((folder / "summary.json").read_text()),
        folder,
    )
