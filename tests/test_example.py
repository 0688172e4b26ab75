"""docs/example/ is a whole report of the present form: it names its files and no machine."""

import re
from pathlib import Path

import pytest
from gallery_results import shipped
from reported import written

from harness.report.sections.contexts import CONTEXTS
from harness.report.study_report import SECTIONS

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs/example"
TEXT = (FOLDER / "report.md").read_text(encoding="utf-8")
MAX_BYTES = 1_500_000


def headings(text):
    without_code = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^## (.+)$", without_code, re.MULTILINE)


def test_the_example_shows_its_figures_and_no_others():
    named = set(re.findall(r"\]\((?!https?:|#)([^)]+)\)", TEXT))
    files = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()}
    assert named == files - {"report.md"}
    assert "figures/answer.png" in named


def test_the_example_is_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < MAX_BYTES


def test_the_example_has_the_sections_of_a_report(tmp_path, no_figures):
    """Else the form of the report has changed: `make example` writes the example again."""
    titles = ["Parallelism" if title == CONTEXTS else title for _, title in SECTIONS]
    shown = headings(TEXT)
    assert [title for title in titles if title in shown] == shown
    page, _, _ = written(shipped(tmp_path))
    assert set(headings(page)) <= set(shown)


@pytest.mark.parametrize("pattern", [r"/(?:home|root|tmp|work|Users)/", r"\bhost +\|", "outdated"])
def test_the_example_is_of_no_particular_machine(pattern):
    assert not re.search(pattern, TEXT)


def test_the_example_is_of_tiny_shakespeare():
    assert "Corpus: `tinyshakespeare`" in TEXT and "synthetic" not in TEXT
