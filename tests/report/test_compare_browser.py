"""The page of a comparison in a browser: answer first, charts drawn, readable at every width."""

from dataclasses import replace

import pytest
from synthetic_results import SyntheticStudy

from harness.analysis import dataset
from harness.report import compare

sync_api = pytest.importorskip("playwright.sync_api")
WIDTHS = (390, 768, 1440)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The page of a comparison of which B has other losses and settings."""
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("os.fsync", lambda fd: None)
        patched.setattr("harness.report.charts.mpl.render", lambda spec: {})
        return written_comparison(folder)


def written_comparison(folder):
    before = SyntheticStudy(folder / "a").write()
    after = replace(
        before,
        root=folder / "b",
        gain={"rope-mha-single": -0.2},
        overrides={"train.weight_decay": 0.2},
        settings_hash="beef",
    ).write()
    sides = []
    for name, study in {"before": before, "after": after}.items():
        results = dataset.read(study.store, study.name)
        sides.append(compare.Source(name, results, study.store.archive(study.name)))
    return compare.write(*sides, folder / "reports") / "index.html"


@pytest.fixture
def page(browser, compared):
    with browser.new_context(
        viewport={"width": 1440, "height": 900}, bypass_csp=True
    ) as context:  # axe is a script
        page = context.new_page()
        page.wrong, page.asked = [], []
        page.on("console", lambda message: page.wrong.append(message.text))
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(compared.as_uri())
        yield page


def test_the_first_screen_holds_answer_and_forest_plot(page):
    height = page.viewport_size["height"]
    for text in ("Losses: ", "What differs: "):
        box = page.get_by_text(text).first.bounding_box()
        assert box["y"] + box["height"] < height, text
    forest = page.get_by_text("rope · mha").first.bounding_box()
    assert forest["y"] + forest["height"] < height


def test_charts_are_drawn_without_errors_or_requests(page):
    plot = page.locator("#plot-curves")
    plot.scroll_into_view_if_needed()
    sync_api.expect(plot.locator(".main-svg").first).to_be_attached()
    assert page.wrong == [] and len(page.asked) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_width_is_readable_and_accessible(page, resize, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.emulate_media(color_scheme=scheme)
    for width in WIDTHS:
        resize(page, width, 900)
        overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0, width
        found = axe.run(page)
        assert found.violations_count == 0, f"{width}: {found.generate_report()}"
