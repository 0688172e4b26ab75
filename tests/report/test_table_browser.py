"""If these failed, a reader could not find, choose or take along the numbers of the table."""

import csv
import io
import json
import re

import pytest
from gallery_results import shipped

from harness import report
from harness.analysis import dataset
from harness.analysis.summary import summarize
from harness.report.sections import entry_table

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.usefixtures("no_figures")
ROWS = "#table tbody tr"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write the report of the shape of the shipped study once, without figures."""
    root = tmp_path_factory.mktemp("table")
    study = shipped(root / "results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.report.charts.mpl.render", lambda spec: {})
        return report.write(study.store, study.name, root / "reports")


@pytest.fixture
def page(browser, folder):
    with browser.new_context(viewport={"width": 1440, "height": 900}) as context:
        opened = context.new_page()
        opened.add_init_script("delete Navigator.prototype.clipboard")  # as in some browsers
        opened.goto((folder / "index.html").as_uri())
        yield opened


def names(page):
    return page.locator(f"{ROWS} th > :first-child").all_inner_texts()


def copied(page, kind):
    page.get_by_role("button", name=f"Copy {kind}").click()
    return page.get_by_role("textbox", name="The table").input_value()


def sort_by(page, title):
    page.locator("#table thead").get_by_role("button", name=title, exact=True).click()


def test_rows_are_best_first_and_sort_both_ways(page, folder):
    answer = json.loads((folder / "summary.json").read_text())["answer"]["rows"]
    first = names(page)
    assert len(first) == len(answer) == 6
    losses = page.locator(f"{ROWS} td:nth-child(4)")
    for descending in (False, True):
        sort_by(page, "val loss")
        shown = [float(text.split()[0]) for text in losses.all_inner_texts()]
        assert shown == sorted(shown, reverse=descending)
    sort_by(page, "val loss")
    assert names(page) == first and page.locator("#table [aria-sort]").count() == 0


def test_a_candidate_opens_to_its_contexts_by_keyboard(page):
    button = page.locator(f"{ROWS} button").first
    button.focus()
    page.keyboard.press("Enter")
    sync_api.expect(page.locator(ROWS)).to_have_count(6 + 3)
    assert button.get_attribute("aria-expanded") == "true"
    assert button.evaluate("button => button === document.activeElement")
    page.keyboard.press("Enter")
    sync_api.expect(page.locator(ROWS)).to_have_count(6)


def test_a_filter_by_context_shows_only_its_rows(page):
    select = page.get_by_role("combobox", name="parallelism")
    label = select.locator("option").nth(1).inner_text()
    select.select_option(label)
    sync_api.expect(page.locator(ROWS)).to_have_count(6 + 6)
    assert set(page.locator(f"{ROWS}.context th").all_inner_texts()) == {label}
    page.get_by_role("button", name="Show all", exact=True).click()
    sync_api.expect(page.locator(ROWS)).to_have_count(6)


def test_chosen_columns_are_remembered(page):
    head = page.locator("#table thead").get_by_role("button", name="step, ms", exact=True)
    assert not head.is_visible()
    page.locator("#columns summary").click()
    page.get_by_role("checkbox", name="step, ms").check()
    assert head.is_visible()
    page.reload()
    assert head.is_visible()
    page.locator("#columns summary").click()
    page.get_by_role("button", name="Default columns").click()
    sync_api.expect(head).to_be_hidden()


def test_csv_has_the_rows_shown_with_unrounded_numbers(page, folder):
    answer = json.loads((folder / "summary.json").read_text())["answer"]["rows"]
    page.locator(f"{ROWS} button").first.click()
    rows = list(csv.DictReader(io.StringIO(copied(page, "CSV"), newline="")))
    assert len(rows) == 6 + 3
    assert [rows[0], *rows[4:]] == [row for row in rows if row["candidate"].count(" · ") == 1]
    for row, record in zip([rows[0], *rows[4:]], answer, strict=True):
        assert row["verdict"] == (record["verdict"] or record["reason"])
        difference = record["difference"]
        if difference is not None:
            low, high = difference["ci95"]
            assert float(row["val_loss_difference"]) == difference["mean"]
            assert float(row["val_loss_difference_low"]) == low
            assert float(row["val_loss_difference_high"]) == high


def test_markdown_has_the_columns_and_the_order_shown(page):
    sort_by(page, "tokens/s")
    head, rule, *lines = copied(page, "Markdown").splitlines()
    titles = [cell.strip() for cell in head.strip("|").split("|")]
    assert titles == page.locator("#table thead th:visible").all_inner_texts()
    assert set(rule) <= set("|-: ")
    assert [line.split("|")[1].strip() for line in lines] == names(page)


def test_latex_has_as_many_cells_in_each_row(page):
    lines = copied(page, "LaTeX").splitlines()
    columns = re.fullmatch(r"\\begin{tabular}{([lr]+)}", lines[0])[1]
    rows = [line for line in lines if line.endswith("\\\\")]
    assert len(rows) == 7 and lines[-1] == "\\end{tabular}"
    assert {line.count(" & ") + 1 for line in rows} == {len(columns)}
    assert "±" not in "".join(lines)


HOSTILE = {
    "=1+1": ("'=1+1", "=1+1", "=1+1"),
    "-x|y": ("'-x|y", "-x\\|y", "-x\\textbar{}y"),
    "a_b%&": ("a_b%&", "a\\_b%&amp;", "a\\_b\\%\\&"),
    "[*]": ("[*]", "\\[\\*\\]", "{}[*]"),
    'q", z': ('"q"", z"', 'q", z', 'q", z'),
}


@pytest.mark.parametrize("label", HOSTILE)
def test_labels_are_escaped_for_each_format(page, label):
    for kind, expected in zip(("csv", "markdown", "latex"), HOSTILE[label], strict=True):
        text = page.evaluate(
            "([kind, text]) => tableFormats[kind]([{name: 'n', title: 't'}], [[{text}]])",
            [kind, label],
        )
        assert expected in text


def test_cards_of_a_phone_begin_with_name_and_verdict(page, resize):
    resize(page, 390, 844)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for row in page.locator(ROWS).all():
        verdict = row.locator("td").first
        box = verdict.bounding_box()
        assert verdict.is_visible() and box["x"] >= 0 and box["x"] + box["width"] <= 390
        assert row.locator("th").bounding_box()["y"] < box["y"]
    page.get_by_role("combobox", name="Sort by").select_option(label="val loss")
    assert page.locator("#table [aria-sort=ascending]").count() == 1


def test_the_default_columns_fit_a_wide_window(page):
    assert (
        page.evaluate("(e => e.scrollWidth - e.clientWidth)(document.querySelector('.tall'))") <= 0
    )


def test_many_rows_are_cut_until_all_are_requested(browser, folder, tmp_path):
    cut = tmp_path / "cut.html"
    text = (folder / "index.html").read_text()
    cut.write_text(text.replace("const MAX_ROWS = 500;", "const MAX_ROWS = 5;"))
    with browser.new_context(bypass_csp=True) as context:  # the policy refuses a changed script
        opened = context.new_page()
        opened.goto(cut.as_uri())
        sync_api.expect(opened.locator("#count")).to_have_text(
            "6 of 6 candidates; the first 5 are shown"
        )
        assert len(names(opened)) == 5
        opened.get_by_role("button", name="Show all rows").click()
        assert len(names(opened)) == 6


def test_every_number_shown_is_the_one_of_the_tables(fake):
    """The values of a cell are those of the tables, and its text is the rounded value."""
    summary = summarize(dataset.read(fake.write().store, fake.name), "now")
    table = entry_table.build(summary)
    frame = summary.tables["entries"].set_index("entry")
    n_checked = 0
    rows = [part for candidate in table.rows for part in (candidate, *candidate.contexts)]
    for row in rows:
        record = frame.loc[summary.study.entries[row.index].label]
        for column, cell in zip(table.columns, row.cells, strict=True):
            if column.name not in frame or cell.value is None:
                continue
            value = cell.value[0] if isinstance(cell.value, tuple) else cell.value
            assert value == record[column.name], column.name
            if column.name == "val_loss":
                assert float(cell.text.split()[0]) == pytest.approx(value, abs=5.1e-5)
            n_checked += 1
    assert n_checked > 50


def test_names_link_to_the_pages_of_details(page, folder):
    links = page.locator(f"{ROWS} th a").evaluate_all(
        "links => links.map((link) => link.getAttribute('href'))"
    )
    pages = {link.partition("#")[0] for link in links}
    assert len(pages) == 6 and all((folder / page).is_file() for page in pages)
    page.locator(f"{ROWS} th a").first.click()
    assert page.url.startswith((folder / "details").as_uri())
