"""A browser, and the page of a made-up study opened in it."""

import shutil

import pytest

from harness import report

# True if the window has this width and each chart was drawn for it. A chart outside the window may
# be drawn later, but one that was drawn already has its new width.
SETTLED = """(width) => innerWidth === width
  && [...document.querySelectorAll(".plot")].every((plot) => {
    const { top, bottom } = plot.getBoundingClientRect();
    if (!plot.offsetParent) return true;
    const isSeen = bottom > 0 && top < innerHeight;
    const layout = plot._fullLayout;
    if (!layout) return !isSeen;
    const size = width <= 700 ? 11 : 12; // of the font
    return Math.abs(layout.width - plot.clientWidth) <= 1
      && (!isSeen || layout.font.size === size);
  })"""


@pytest.fixture(scope="session")
def browser():
    """A Chromium, playwright's own or the system's."""
    sync_api = pytest.importorskip("playwright.sync_api")
    sync_api.expect.set_options(timeout=60_000)  # the tests may share a processor
    with sync_api.sync_playwright() as playwright:
        for path in (None, shutil.which("chromium"), shutil.which("google-chrome")):
            try:
                found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            except sync_api.Error:
                continue
            yield found
            found.close()
            return
        pytest.skip("no Chromium")


@pytest.fixture
def opened(browser, fake):
    """The page of a made-up study, opened, with all that went wrong and all that was asked for."""
    fake.decode, fake.lengths = ([1, 8], [64, 128]), [64, 128, 256]
    fake.outcome = {
        "rope-gqa2-ddp2-s1": (
            "failed",
            "oom",
            "OutOfMemoryError: </script><script>hacked = 1</script>",
        )
    }
    folder = report.write(fake.write().store, fake.name, fake.root.parent / "reports")
    with browser.new_context(viewport={"width": 1440, "height": 900}) as context:
        page = context.new_page()
        page.wrong, page.asked = [], []
        page.on("console", lambda message: page.wrong.append(message.text))
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto((folder / "index.html").as_uri())
        yield page


@pytest.fixture
def settle():
    """Return a function that waits until the charts of a page have the size of its window."""

    def wait(page):
        page.wait_for_function(SETTLED, arg=page.viewport_size["width"], timeout=60_000)

    return wait


@pytest.fixture
def resize(settle):
    """Return a function that gives a page another size and waits until its charts have it."""

    def change(page, width, height):
        page.set_viewport_size({"width": width, "height": height})
        settle(page)

    return change
