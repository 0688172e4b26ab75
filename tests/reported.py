"""Write the report of a synthetic study and read it back, for tests of the analysis."""

import json
from pathlib import Path

from synthetic_results import SyntheticStudy

from harness import report
from harness.results.files import read_json, write_json


def plant(fake: SyntheticStudy, entry: str, seed: int, **probes: object) -> None:
    """Replace these probes of one run."""
    run = next(
        run for run in fake.store.runs(fake.name) if run.run_id.startswith(f"{entry}-s{seed}-")
    )
    path = run.path / "probes.json"
    write_json(path, read_json(path) | probes)


def written(fake: SyntheticStudy) -> tuple[str, dict, Path]:
    """Return report.md, summary.json, and the folder of the report."""
    folder = report.write(fake.store, fake.name, fake.root.parent / "reports")
    return (
        (folder / "report.md").read_text(),
        json.loads((folder / "summary.json").read_text()),
        folder,
    )
