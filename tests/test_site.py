"""The documentation site: every page is reachable, every link works, and no host is contacted."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from variants import registry
from variants.base import AXES

ROOT = Path(__file__).parent.parent
CONFIG = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
NAV = re.findall(r"^ +- [^:\n]+: (\S+\.md)$", CONFIG, re.MULTILINE)
GENERATED = {"index.md", "variants.md", "changelog.md", "contributing.md"}
GENERATED |= {"files/results.md", "files/reports.md"}
needs_mkdocs = pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="needs ablations[docs]"
)


class Requests(HTMLParser):
    """Collect what a page loads and what it links to."""

    def __init__(self):
        super().__init__()
        self.loads = []
        self.links = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "a":
            self.links.append(values.get("href") or "")
        elif tag != "link" or values.get("rel") in ("stylesheet", "icon", "preconnect"):
            self.loads += [values[name] for name in ("src", "href") if values.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stderr
    return folder


def parsed(page):
    requests = Requests()
    requests.feed(page.read_text(encoding="utf-8"))
    return requests


def test_the_navigation_names_every_page_once():
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(NAV) == sorted(pages | GENERATED)


@needs_mkdocs
def test_the_site_loads_only_its_own_files(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(NAV)
    for page in pages:
        for address in parsed(page).loads:
            assert not re.match(r"(https?:)?//", address), f"{page}: {address}"
            path = address.partition("?")[0].partition("#")[0]
            if path and page.name != "404.html" and not path.startswith("data:"):
                assert (page.parent / path).exists(), f"{page}: {address}"


@needs_mkdocs
def test_links_within_the_site_lead_to_files(site):
    n_links = 0
    for page in site.rglob("*.html"):
        for link in parsed(page).links:
            path = link.partition("#")[0]
            if path and page.name != "404.html" and not re.match(r"\w+:", path):
                n_links += 1
                assert (page.parent / path).exists(), f"{page.name} links to {link}"
    assert n_links > 100


@needs_mkdocs
def test_every_variant_and_option_has_a_row(site):
    page = (site / "variants.html").read_text(encoding="utf-8")
    for axis in AXES:
        for name in registry.files(axis):
            assert f"<code>{name}</code>" in page
            for option in registry.load(axis, name).Options.__dataclass_fields__:
                assert f"<code>{option}: " in page, f"{axis}.{name}.{option}"


@needs_mkdocs
def test_the_site_names_no_place_of_this_machine(site):
    places = (str(ROOT), str(Path.home()), "/tmp/", "file://" + "/")
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        named = [place for place in places if len(place) > 3 and place in text]
        assert not named, page
