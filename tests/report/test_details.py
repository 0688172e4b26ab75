"""Each candidate has a page of its runs: without it, a reader has to search the results folder."""

import re

import pytest
from reported import written

from harness.report import details

pytestmark = pytest.mark.usefixtures("no_figures")
FAILED = "rope-gqa2-ddp2-s1"


@pytest.fixture
def pages(fake):
    """The pages of a study in which a run failed with markup in its message and log."""
    fake.outcome = {FAILED: ("failed", "error", "<b>too</b> large")}
    fake.write()
    _, _, folder = written(fake)
    return {path.stem: path.read_text() for path in (folder / details.FOLDER).iterdir()}


def test_each_candidate_has_a_page_with_all_its_runs(fake, pages):
    shown = {run_id for page in pages.values() for run_id in re.findall(r'id="([^"]+)"', page)}
    assert len(pages) == 6
    assert shown == {run.run_id for run in fake.store.runs(fake.name)}


def test_a_page_shows_curves_facts_log_and_spec(pages):
    for page in pages.values():
        n_runs = page.count("<section")
        assert page.count("<svg") == 2 * n_runs and page.count("Specification") == n_runs
        assert page.count("<dt>launch</dt>") == n_runs
        assert page.count("<dt>phases of rank 0") >= n_runs - 1  # not of the failed run
        assert page.count("line 29") == n_runs  # the end of the log
        assert page.count("<dt>memory of rank 0") >= n_runs - 1  # not of the failed run


def test_a_failed_run_comes_first_and_its_log_is_escaped(pages):
    page = next(page for page in pages.values() if FAILED in page)
    first = re.search(r'<section id="([^"]+)"', page)[1]
    assert first.startswith(FAILED)
    assert "error: &lt;b&gt;too&lt;/b&gt; large" in page and "<b>too" not in page


def test_a_page_has_no_script_and_requests_nothing(pages):
    for page in pages.values():
        assert "<script" not in page and not re.search(r'(src|href)="(https?:)?//', page)
        assert 'href="../index.html"' in page and len(page) < 200_000


@pytest.mark.parametrize("label", ["a/../../b", "x" * 400, "é" * 200, "a b"])
def test_any_label_gives_the_name_of_a_file(tmp_path, label):
    path = tmp_path / details.page_name(label)
    path.parent.mkdir()
    path.write_text("")
    assert path.parent.name == details.FOLDER and details.page_name(label + "1") != str(path)


def test_a_page_of_another_candidate_is_removed(fake, tmp_path):
    fake.write()
    _, _, folder = written(fake)
    stale = folder / details.FOLDER / "gone.html"
    stale.write_text("old")
    written(fake)
    assert not stale.exists()


def test_of_many_candidates_the_best_and_the_failed_have_pages(fake, monkeypatch):
    monkeypatch.setattr(details, "MAX_PAGES", 2)
    fake.outcome = {"learned-local64-single-s1": ("failed", "oom", "too large")}
    fake.write()
    _, summary, folder = written(fake)
    names = {path.stem for path in (folder / details.FOLDER).iterdir()}
    best = [row["entry"] for row in summary["answer"]["rows"][:2]]
    assert names == {*best, "learned-local64-single"}
    assert "The 2 candidates" in (folder / details.page_name(best[0])).read_text()
