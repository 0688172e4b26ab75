"""A browser, and the page of a made-up study opened in it."""

import shutil

import pytest

from harness import report


@pytest.fixture(scope="session")
def browser():
    """A Chromium, playwright's own or the system's."""
    sync_api = pytest.importorskip("playwright.sync_api")
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
