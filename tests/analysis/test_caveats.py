"""A violation that the study permits is shown with its entry, whatever the number of its runs."""

import pytest
from reported import written

from harness.analysis.caveats import find_caveats
from harness.results.files import read_json, write_json

pytestmark = pytest.mark.usefixtures("no_figures")

ENTRY = "rope-mha-single"
VIOLATION = {"kind": "non-causal", "message": "the output at position 3 depends on token 4"}


def permit(fake, n_runs):
    runs = [run for run in fake.store.runs(fake.name) if run.run_id.startswith(f"{ENTRY}-")]
    for run in runs[:n_runs]:
        path = run.path / "spec.json"
        write_json(path, read_json(path) | {"allowed": [VIOLATION]})


def test_permitted_leak_is_a_caveat_of_its_entry(fake, read_study):
    """One run that saw later tokens is enough to doubt the entry."""
    fake.write()
    assert not [c for c in find_caveats(read_study(fake)) if c.kind == "non-causal"]
    for n_runs in (1, 3):
        permit(fake, n_runs)
        (caveat,) = [c for c in find_caveats(read_study(fake)) if c.kind == "non-causal"]
        assert caveat.entry == ENTRY and VIOLATION["message"] in caveat.message


def test_permitted_leak_is_on_the_first_screen(fake):
    """Its loss is not comparable with any other."""
    fake.write()
    permit(fake, 3)
    page, _, _ = written(fake)
    assert VIOLATION["message"] in page.partition("\n## ")[0]
