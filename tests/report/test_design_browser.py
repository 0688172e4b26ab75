"""The page shows its answer first, fits every width and paper, and works by keyboard."""

from dataclasses import replace

import pytest

from harness.report.charts.answer import MAX_ROWS
from harness.report.charts.spec import Axis, ChartSpec, CostBar, Forest, ForestRow
from harness.report.charts.style import VERDICTS
from harness.report.document import Advice, Document, FirstScreen
from harness.report.render import html

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.usefixtures("no_figures")
SIZES = [(390, 844), (768, 1024), (1440, 900)]
PAPER = 718  # pixels, width of A4 within its margins
BOTTOM = "(element) => element.getBoundingClientRect().bottom + scrollY"
# Elements whose content is cut: those with a scroll bar on the screen must have none in print.
CUT = """() => [...document.querySelectorAll("main *, header *")].filter((e) => (
  !e.closest(".plot, svg, .hidden") && !e.matches(".hidden")
  && getComputedStyle(e).overflowX !== "visible" && e.scrollWidth > e.clientWidth + 1
)).map((e) => e.outerHTML.slice(0, 100))"""
WIDE = """(width) => [...document.querySelectorAll("main *, header *, footer *")].filter((e) => (
  !e.closest(".hidden, .scroll, pre, .skip, .controls, td svg") && e.offsetParent !== null
  && e.getBoundingClientRect().right > width + 1
)).map((e) => e.outerHTML.slice(0, 100))"""


def crowded():
    """Return a page with as many rows as the forest plot may have, and long names and advice."""
    name = "RoPE θ 10,000 · GQA-4 · window 128 [outdated]"
    row = ForestRow(
        name=name,
        entry="rope",
        verdict="unresolved",
        text="-0.286 [-0.322, -0.251]",
        style=VERDICTS["unresolved"],
        swatch="#0072B2",
        value=-0.286,
        interval=(-0.322, -0.251),
        costs=[CostBar("16.5k", 16e3, (11e3, 90e3), "-17 %", "worse")] * 3,
    )
    rows = [row, replace(row, verdict="without a seed that the baseline has done", interval=None)]
    titles = ["tokens/s", "peak memory, MiB", "parameters"]
    rows = (rows * MAX_ROWS)[:MAX_ROWS]
    plot = Forest(Axis("difference, nats per token"), rows, titles, (-0.02, 0.02), n_more=200)
    chart = ChartSpec("answer", "Validation loss", "left is better", "Forest plot", plot)
    sentence = (f"{name} lowers validation loss by 0.249 nats [0.205, 0.292].",)
    item = (f"{name}: 0.249 nats [0.205, 0.292] lower at 7 % lower throughput",)
    advice = [
        Advice("better", "Better", [item, item]),
        Advice("distrust", "Do not trust yet", [item, item]),
    ]
    first = FirstScreen(("Which is better?",), [sentence] * 3, chart, advice)
    return html.render(Document("crowded", first, [], [], ("The end.",), "9 of 9 runs done"))


@pytest.fixture
def at_size(opened, resize):
    """Return a function that gives the opened page another size."""

    def change(width, height):
        resize(opened, width, height)
        return opened

    return change


def show_crowded(page, tmp_path):
    path = tmp_path / "crowded.html"
    path.write_text(crowded(), encoding="utf-8")
    page.goto(path.as_uri())


def test_answer_chart_and_advice_need_no_scrolling(opened, tmp_path):
    for _ in range(2):
        for part in (".question", ".answers", ".advice", ".forest"):
            bottom = opened.locator(part).evaluate(BOTTOM)
            assert 0 < bottom <= 900, (part, bottom)
        show_crowded(opened, tmp_path)
    assert opened.locator(".forest tbody tr").count() == MAX_ROWS


def test_a_phone_shows_question_answer_and_advice_in_order(at_size):
    page = at_size(390, 844)
    parts = (".question", ".answers", ".advice", ".forest")
    bottoms = [page.locator(part).evaluate(BOTTOM) for part in parts]
    assert bottoms == sorted(bottoms) and bottoms[1] < 844
    for row in page.locator(".forest tbody tr").all():
        assert row.locator(".verdict").bounding_box()["x"] < 390


def test_a_phone_names_the_rows_of_every_panel(at_size, settle):
    page = at_size(390, 844)
    plot = page.locator("#plot-contexts")
    plot.scroll_into_view_if_needed()
    sync_api.expect(plot.locator(".main-svg").first).to_be_attached()
    settle(page)  # it may have been drawn for a wide window
    names = [plot.locator(f".y{n}tick text").all_inner_texts() for n in ("", "2", "3", "4")]
    assert names[0] and all(of_panel == names[0] for of_panel in names)


def test_a_long_name_is_beside_its_swatch(at_size, tmp_path):
    page = at_size(1440, 900)
    show_crowded(page, tmp_path)
    tops = page.locator(".forest tbody th").first.evaluate("""(cell) => {
      cell.lastChild.textContent = "a_name_without_a_space_".repeat(2);
      const range = document.createRange();
      range.selectNodeContents(cell.lastChild);
      return [range, cell.querySelector(".swatch")].map((e) => e.getClientRects()[0].top);
    }""")
    assert abs(tops[0] - tops[1]) < 12


def test_nothing_is_wider_than_the_window(at_size, tmp_path):
    for shown in ("study", "crowded"):
        for size in SIZES:
            page = at_size(*size)
            if shown == "crowded":
                show_crowded(page, tmp_path)
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
            assert page.evaluate(WIDE, size[0]) == [], (shown, size)
    assert page.wrong == []


def test_print_has_every_chart_and_table_whole(opened):
    opened.emulate_media(media="print", color_scheme="dark")
    opened.set_viewport_size({"width": PAPER, "height": 1000})
    sync_api.expect(opened.locator("html.paper")).to_be_attached()
    for plot in opened.locator(".plot").all():
        sync_api.expect(plot.locator(".main-svg").first).to_be_attached()
        assert plot.locator(".main-svg").first.bounding_box()["width"] <= PAPER
    assert opened.locator("main details:not([open])").count() == 0
    assert not opened.locator("nav").is_visible()
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)"
    )
    assert opened.evaluate(CUT) == []
    assert opened.evaluate(WIDE, PAPER) == []
    assert opened.pdf(format="A4").startswith(b"%PDF")
    opened.emulate_media(media="screen")
    sync_api.expect(opened.locator("main details[open]")).to_have_count(0)
    assert opened.wrong == []


def test_the_keyboard_reaches_sections_and_the_results(at_size):
    page = at_size(390, 844)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    menu = page.locator("#menu summary")
    menu.focus()
    page.keyboard.press("Enter")
    links = page.locator("nav a")
    link = links.nth(links.count() // 2)
    title = link.text_content()
    link.focus()
    page.keyboard.press("Enter")
    assert page.locator("#menu").get_attribute("open") is None
    current = page.locator("nav a[aria-current]")
    sync_api.expect(current).to_have_text(title)
    assert page.evaluate("scrollY") > 500
    page.keyboard.press("Shift+Tab")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) != "none"


@pytest.mark.parametrize(("scheme", "sizes"), [("light", SIZES), ("dark", SIZES[-1:])])
def test_axe_finds_no_violation(browser, opened, scheme, sizes, tmp_path):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    # axe is a script, which the page's policy would refuse
    with browser.new_context(bypass_csp=True, color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(opened.url)
        for width, height in sizes:
            page.set_viewport_size({"width": width, "height": height})
            page.locator("#plot-phases").scroll_into_view_if_needed()
            sync_api.expect(page.locator("#plot-phases .main-svg").first).to_be_attached()
            found = axe.run(page)
            assert found.violations_count == 0, found.generate_report()
        page.set_viewport_size({"width": 390, "height": 844})
        show_crowded(page, tmp_path)
        found = axe.run(page)
        assert found.violations_count == 0, found.generate_report()
