"""Each candidate has a page of its runs: without it, a reader has to search the results folder."""

import re
from urllib.parse import unquote

import pytest
from gallery_results import GALLERY
from synthetic_results import SyntheticStudy

from harness.analysis import dataset
from harness.analysis.summary import Summary, summarize
from harness.report import details
from harness.report.sections import entry_table

FAILED = "rope-gqa2-ddp2-s1"


def write(study, folder) -> tuple[Summary, dict[str, str]]:
    """Write the pages of a study, and return its summary and the pages by their paths."""
    summary = summarize(dataset.read(study.store, study.name), "")
    details.write(summary, folder)
    paths = (folder / details.FOLDER).iterdir()
    return summary, {str(path.relative_to(folder)): path.read_text() for path in paths}


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """A study in which a run failed with markup in its message and log, and its pages."""
    folder = tmp_path_factory.mktemp("details")
    study = SyntheticStudy(folder / "results")
    study.outcome = {FAILED: ("failed", "error", "<b>too</b> large")}
    study.write()
    return study, write(study, folder)[1]


@pytest.fixture(scope="module")
def pages(failed):
    return failed[1]


def linked(row, pages):
    """Return the page that a row of the table links to, and the run on it."""
    path, _, run_id = unquote(row.link).partition("#")
    assert not run_id or f'<section id="{run_id}"' in pages[path]
    return path, run_id


@pytest.mark.parametrize("name", ["shipped", "one-entry", "ladder", "troubled"])
def test_each_row_of_the_table_links_to_its_runs(name, tmp_path):
    study = GALLERY[name](tmp_path / "results")
    summary, pages = write(study, tmp_path)
    rows = entry_table.build(summary).rows
    assert {linked(row, pages) for row in rows} == {(path, "") for path in pages}
    for row in rows:
        for context in row.contexts:
            path, run_id = linked(context, pages)
            label = summary.study.entries[context.index].label
            assert path == unquote(row.link) and run_id.startswith(f"{label}-")


def test_each_candidate_has_a_page_with_all_its_runs(failed):
    study, pages = failed
    shown = {run_id for page in pages.values() for run_id in re.findall(r'id="([^"]+)"', page)}
    assert len(pages) == 6
    assert shown == {run.run_id for run in study.store.runs(study.name)}


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


def test_of_many_candidates_the_best_and_the_failed_have_pages(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(details, "MAX_PAGES", 2)
    fake.outcome = {"learned-local64-single-s1": ("failed", "oom", "too large")}
    stale = tmp_path / details.FOLDER / "gone.html"
    stale.parent.mkdir()
    stale.write_text("of a candidate that the study no longer has")
    summary, pages = write(fake.write(), tmp_path)
    best = [details.page_name(row.entry) for row in summary.answer.rows[:2]]
    assert pages.keys() == {*best, details.page_name("learned-local64-single")}
    assert "The 2 candidates" in pages[best[0]]
    links = [row.link for row in entry_table.build(summary).rows]
    assert {link for link in links if link} == pages.keys() and "" in links
