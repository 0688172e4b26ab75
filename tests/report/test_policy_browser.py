"""A browser runs the scripts of a page and no other: escaping is not the only guard.

Each page is opened from disk. A script that is planted in its file must not run.
"""

import re
import time

import pytest

from harness import report

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.usefixtures("no_figures")
PLANTED = {
    "script": "<script>hacked = 1</script>",
    "module": '<script type="module">hacked = 1</script>',
    "handler": '<img src="x" onerror="hacked = 1">',
    "link": '<a id="bait" href="javascript:void(hacked = 1)">x</a>',
    "frame": '<iframe srcdoc="<script>parent.hacked = 1</script>"></iframe>',
    "file": '<script src="data:text/javascript,hacked = 1"></script>',
    "base": '<base href="http://localhost:9/">',
    "form": '<form action="http://localhost:9/"><button id="bait">x</button></form>',
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a report with an interactive page and pages of details."""
    from synthetic_results import SyntheticStudy

    folder = tmp_path_factory.mktemp("policy")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("os.fsync", lambda fd: None)
        patched.setattr("harness.report.charts.mpl.render", lambda spec: {})
        study = SyntheticStudy(folder / "results").write()
        return report.write(study.store, study.name, folder / "reports")


@pytest.fixture
def open_page(browser):
    """Return a function that opens a file, and what the browser says about it."""
    with browser.new_context() as context:
        page = context.new_page()
        page.said = []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))

        def visit(path):
            page.goto(path.as_uri())
            return page

        yield visit


def wait_for_refusal(page, text):
    """Wait until the browser says that it refused a script: it may do so later."""
    end = time.monotonic() + 60
    while not any(text in line for line in page.said):
        assert time.monotonic() < end, page.said
        page.wait_for_timeout(20)


PAGES = {
    "report": lambda folder: folder / "index.html",
    "details": lambda folder: next((folder / "details").glob("*.html")),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_keeps_to_its_own_policy(open_page, written, name):
    page = open_page(PAGES[name](written))
    for plot in page.locator(".plot").all():
        plot.scroll_into_view_if_needed()
        sync_api.expect(plot.locator(".main-svg").first).to_be_attached()
    assert page.said == []


@pytest.mark.parametrize("planted", PLANTED)
@pytest.mark.parametrize("name", PAGES)
def test_what_is_planted_in_a_page_does_not_run(open_page, written, tmp_path, name, planted):
    text = PAGES[name](written).read_text()
    text = re.sub(r"(<main[^>]*>)", r"\1" + PLANTED[planted], text, count=1)
    (tmp_path / "page.html").write_text(text)
    page = open_page(tmp_path / "page.html")
    page.evaluate("document.getElementById('bait')?.click()")
    wait_for_refusal(page, "Content Security Policy")
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.evaluate("document.baseURI").startswith("file:")
    assert page.url.startswith("file:")


def test_a_script_added_later_does_not_run(open_page, written):
    page = open_page(written / "index.html")
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "hacked = 1";
        document.body.append(script);
    }""")
    wait_for_refusal(page, "script-src")
    assert page.evaluate("typeof hacked") == "undefined"
