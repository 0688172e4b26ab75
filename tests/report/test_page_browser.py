"""The page works in a browser: sorting, filtering, charts, dark mode, phones; no requests."""

import os

import pytest

from harness import report

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.usefixtures("no_figures")


def drawn(page, name):
    """Return the locator of a chart once it is near the window and drawn."""
    plot = page.locator(f"#plot-{name}")
    plot.scroll_into_view_if_needed()
    sync_api.expect(plot.locator(".main-svg").first).to_be_attached()
    return plot


def names(page):
    return page.locator("#table tbody tr:visible th > :first-child").all_inner_texts()


def expect_curves(page, n_curves):
    """Wait until the chart has this number of curves: a change is drawn in a task of its own."""
    drawn(page, "curves")
    page.wait_for_function(HAS_CURVES, arg=n_curves, timeout=60_000)


def replace_file(path, text):
    """Write a file in one step, so that a browser never loads a part of it."""
    part = path.with_suffix(".part")
    part.write_text(text)
    os.replace(part, path)


def test_the_table_filters_the_curves_without_a_network(opened):
    assert len(names(opened)) == 6
    opened.get_by_role("combobox", name="attention").select_option("gqa2")
    opened.get_by_label("Search").fill("rope")
    sync_api.expect(opened.locator("#count")).to_have_text("1 of 6 candidates")
    assert names(opened) == ["rope · gqa2 [lost-seeds]"]
    expect_curves(opened, 1)
    opened.get_by_role("combobox", name="Context").select_option("all")
    expect_curves(opened, 3)
    opened.get_by_role("combobox", name="Context").select_option(index=0)
    opened.get_by_role("button", name="Show all", exact=True).click()
    sync_api.expect(opened.locator("#count")).to_have_text("6 of 6 candidates")
    expect_curves(opened, 6)

    assert opened.wrong == []
    assert len(opened.asked) == 1 and opened.asked[0].startswith("file:")
    assert opened.evaluate("typeof hacked") == "undefined"


def test_legend_and_controls_change_the_curves(opened):
    drawn(opened, "curves")
    opened.locator("#plot-curves .legendtoggle").first.click()
    sync_api.expect(opened.locator("#plot-curves .scatterlayer .trace.scatter")).to_have_count(
        2 * (6 - 1) + 2 * (5 - 1)  # the best candidate comes first
    )
    opened.get_by_role("combobox", name="against").select_option("time")
    opened.get_by_role("combobox", name="Loss").select_option("training")
    titles = ["training time, s", "loss, nats per token"]
    opened.wait_for_function(HAS_TITLES, arg=titles, timeout=60_000)
    expect_curves(opened, 6)
    assert opened.wrong == []


def test_hovering_over_a_curve_shows_its_name_and_value(opened):
    opened.get_by_label("Search").fill("rope mha")
    sync_api.expect(opened.locator("#count")).to_have_text("1 of 6 candidates")
    expect_curves(opened, 1)
    opened.locator("#plot-curves .scatterlayer .point").last.hover(force=True)
    tooltip = opened.locator("#plot-curves .hoverlayer .hovertext").first
    sync_api.expect(tooltip).to_contain_text("rope · mha")
    values = opened.evaluate(
        "document.getElementById('plot-curves').data.filter(t => !t.fill).map(t => t.y.at(-1))"
    )
    assert any(f"{abs(value):.4f}" in tooltip.text_content() for value in values)
    assert opened.wrong == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_vertically_with_enough_contrast(opened, resize, scheme):
    opened.emulate_media(color_scheme=scheme)
    resize(opened, 390, 844)
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    assert opened.evaluate(CONTRAST) >= 4.5
    assert opened.wrong == []


def test_a_watched_page_reloads_and_keeps_the_inputs(browser, one_axis):
    folder = report.write(
        one_axis.write().store, one_axis.name, one_axis.root.parent / "reports", refresh_s=1
    )
    path = folder / "index.html"
    with browser.new_context() as context:
        page = context.new_page()
        page.add_init_script("setInterval = (callback) => { window.elapse = callback; }")
        page.goto(path.as_uri())
        replace_file(path, path.read_text().replace("<h1>tiny", "<h1>newer"))
        assert page.evaluate(f"() => {{ const left = ({ELAPSE})(); ({SEARCH})(); return left; }}")
        sync_api.expect(page.locator("h1")).to_have_text("newer")
        sync_api.expect(page.get_by_label("Search")).to_have_value("gqa2")
        sync_api.expect(page.locator("#count")).to_have_text("1 of 2 candidates")
        page.get_by_label("Reload this page").uncheck()
        assert not page.evaluate(ELAPSE)


HAS_CURVES = """(n) => n === document.getElementById("plot-curves").data
  .filter((trace) => !trace.fill && trace.yaxis === "y").length"""
HAS_TITLES = """([x, y]) => {
  const { xaxis, yaxis } = document.getElementById("plot-curves").layout;
  return xaxis.title.text === x && yaxis.title.text === y;
}"""
# Let the interval of the page end, and return whether that begins a reload.
ELAPSE = """() => {
  let isLeft = false;
  addEventListener("beforeunload", () => { isLeft = true; });
  elapse();
  return isLeft;
}"""
# A reload that has begun cannot end before the task that types.
SEARCH = """() => {
  const field = document.getElementById("search");
  field.value = "gqa2";
  field.dispatchEvent(new Event("input", { bubbles: true }));
}"""
CONTRAST = """() => {
  const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map(channel);
    return .2126 * r + .7152 * g + .0722 * b; };
  const background = (e) => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)|transparent/.test(c)) return c;
    }
    return 'rgb(255,255,255)';
  };
  const tags = 'h1,h2,p,a,td,th,button,label,input,select,figcaption,.mark,code';
  const texts = [...document.querySelectorAll(tags)]
    .filter((e) => e.offsetParent && !e.closest('.plot'));
  return Math.min(...texts.map((e) => {
    const a = light(getComputedStyle(e).color);
    const b = light(background(e));
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  }));
}"""
