"""A document says the same in Markdown and HTML, and no text becomes markup in either."""

import re

import pytest
from markdown_it import MarkdownIt

from harness.report.document import (
    Code,
    CodeBlock,
    Details,
    Document,
    Emphasis,
    FirstScreen,
    Heading,
    ItemList,
    Note,
    Section,
    paragraph,
    text,
)
from harness.report.render import html, markdown
from harness.report.tables import table

ADDRESSES = "www.example.org and http://example.org and a@example.org"
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "[link](http://example.org)",
    "![image](http://example.org/x.png)",
    "a *b* **c** _d_ __e__ ~~f~~ `g` | h \\| i",
    "&lt;b&gt; &#60;",
    "```",
    "<details><summary>x",
    "a\\|b \\\\| c",
    "[x]: http://example.org",
    "# heading",
    "- item",
    "1. item",
    "> quote",
    "---",
    ADDRESSES,
    "$x$ :tada: <!-- c --> <?php ?>",
    "{{ 7 * 7 }} {% raw %} ${7 * 7}",
)
UNSAFE = "\x00\x07\x08\x1b\x7f\x85\x9b\u202e\u2066\u200b\ufeff\uffff"
SEQUENCE = "\x1b[31mred\x1b[0m \x1b]8;;http://example.org\x07link\x1b]8;;\x07"


def document(*blocks):
    section = Section("s", "S", blocks)
    first = FirstScreen(text("Q?"), [text("A.")])
    return Document("T", first, (), (section,), text("F."))


def rendered_markdown(*blocks):
    """Return the HTML that a Markdown reader makes of the blocks."""
    source = markdown.render(document(*blocks)).split("## S\n\n")[1]
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(source)


def rendered_html(*blocks):
    page = html.render(document(*blocks))
    return page.split('<h2 id="h-s">S</h2>')[1].split("</section>")[0]


RENDERERS = pytest.mark.parametrize("render", [rendered_markdown, rendered_html])


def tags(page):
    return set(re.findall(r"<(\w+)", page))


def shown(page):
    """Return the text that a reader sees."""
    plain = re.sub(r"<[^>]*>", "", page)
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&#34;", '"')):
        plain = plain.replace(entity, character)
    return plain.replace("&#39;", "'").replace("&amp;", "&")


@RENDERERS
@pytest.mark.parametrize("hostile", HOSTILE)
def test_text_is_shown_as_it_is(render, hostile):
    page = render(paragraph("before ", hostile, " after"))
    assert f"before {hostile} after" in shown(page) and tags(page) == {"p"}


@RENDERERS
@pytest.mark.parametrize("hostile", HOSTILE)
def test_code_is_shown_as_it_is(render, hostile):
    page = render(paragraph("run ", Code(hostile), "."))
    assert hostile in shown(page) and tags(page) == {"p", "code"}


@RENDERERS
@pytest.mark.parametrize("hostile", HOSTILE)
def test_text_stays_in_its_cell(render, hostile):
    page = render(table("C", ["entry", hostile], [[hostile, "1"], ["x", Code(hostile)]]))
    assert shown(page).count(hostile) >= 3
    assert len(re.findall("<t[dh][ >]", page)) == 6
    assert not tags(page) & {"img", "script", "a", "strong", "em", "del", "details"}


@RENDERERS
@pytest.mark.parametrize("hostile", HOSTILE)
def test_text_that_begins_a_block_is_a_paragraph(render, hostile):
    assert hostile in shown(render(paragraph(hostile)))
    assert tags(render(paragraph(hostile))) == {"p"}
    listed = render(ItemList([text(hostile)]))
    assert hostile in shown(listed) and tags(listed) == {"ul", "li"}


BLOCKS = {
    "paragraph": paragraph,
    "code": lambda text: paragraph(Code(text)),
    "emphasis": lambda text: paragraph(Emphasis(text)),
    "item": lambda text: ItemList([(text,)]),
    "note": lambda text: Note([paragraph(text)]),
    "heading": Heading,
    "code block": CodeBlock,
    "details": lambda text: Details(text, (paragraph("x"),)),
    "cell": lambda text: table("C", ["a"], [[text]]),
    "code in a cell": lambda text: table("C", ["a"], [[Code(text)]]),
    "column": lambda text: table("C", [text], [["x"]]),
}


@RENDERERS
@pytest.mark.parametrize("block", BLOCKS)
def test_no_control_character_is_in_a_report(render, block):
    page = render(BLOCKS[block](f"before {UNSAFE} {SEQUENCE} after"))
    assert not set(UNSAFE) & set(page) and "\\u202e" in shown(page)
    assert "red" in shown(page) and "example.org" not in page


def test_no_address_of_others_is_a_link():
    """GitHub makes links of addresses that have no markup."""
    source = markdown.render(document(paragraph(ADDRESSES)))
    assert not re.search(r"https?://|www\.e|a@e", source)


@RENDERERS
def test_a_code_block_holds_fences_and_tags(render):
    page = render(CodeBlock("```\n</code></pre><b>"), paragraph("after"))
    assert "```\n</code></pre><b>" in shown(page) and tags(page) == {"pre", "code", "p"}


@RENDERERS
def test_each_kind_of_block_keeps_its_structure(render):
    page = render(
        Heading("H"),
        Note([paragraph("careful"), ItemList([text(Code("one"), ": why")])]),
        ItemList([text("first"), text("second")], ordered=True),
        Details("more", (paragraph(Emphasis("inside")),)),
    )
    assert "<h3>H</h3>" in page
    assert "<li><code>one</code>: why</li>" in re.sub(r"\s*\n\s*", "", page)
    assert re.sub(r"\s+", "", "<ol><li>first</li><li>second</li></ol>") in re.sub(r"\s+", "", page)
    assert "<details><summary>more</summary>" in page and "<strong>inside</strong>" in page
    assert page.count("</details>") == 1


def test_numbers_are_aligned_by_column_and_not_by_their_text():
    numbers = table("C", ["run", "n"], [["1", "many"]], numeric=["n"])
    assert '<th scope="row">1</th><td class="n">many</td>' in rendered_html(numbers)
    assert "| 1     | many |" in markdown.render(document(numbers))


def test_a_long_table_is_cut_and_says_so():
    rows = [[f"entry{i}", str(i)] for i in range(1000)]
    long = table("C", ["entry", "n"], rows, numeric=["n"])
    for page in (rendered_html(long), rendered_markdown(long)):
        assert "The first 250 of 1,000 rows" in shown(page)
        assert "entry249" in page and "entry250" not in page


def test_a_page_without_charts_runs_only_the_script_of_the_page():
    """It carries no plotting library and no data."""
    page = html.render(document(paragraph("x")))
    assert page.count("<script") == 1 and len(page) < 100_000
