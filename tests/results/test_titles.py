"""People read titles: two entries never share one, and a title of a label is one level."""

from hypothesis import given
from hypothesis import strategies as st

from harness.results.titles import distinct, of_entries

WORDS = st.sampled_from(["a", "b", "a · b", "a-b", ""])
LEVELS = st.fixed_dictionaries({"x": WORDS, "y": WORDS}, optional={"z": WORDS})


@given(st.dictionaries(WORDS, WORDS))
def test_titles_of_labels_are_distinct(titles):
    found = distinct(titles)
    assert found.keys() == titles.keys()
    assert len(set(found.values())) == len(titles)


@given(
    st.dictionaries(st.text("ab-", min_size=1, max_size=5), LEVELS, min_size=1, max_size=8),
    st.fixed_dictionaries({"x": st.dictionaries(WORDS, WORDS)}),
)
def test_titles_of_entries_are_distinct(entries, titles):
    found = of_entries(entries, titles)
    assert list(found) == list(entries)
    assert len(set(found.values())) == len(entries)


def test_an_entry_is_named_by_the_axes_that_vary():
    titles = {"attention": {"gqa2": "GQA-2"}, "parallelism": {"single": "one process"}}
    single = {"positional": "rope", "parallelism": "single"}
    entries = {
        "rope-mha-single": single | {"attention": "mha"},
        "rope-gqa2-single": single | {"attention": "gqa2"},
    }
    assert list(of_entries(entries, titles).values()) == ["mha", "GQA-2"]
    one = {"rope-gqa2-single": single | {"attention": "gqa2", "norm": "layernorm"}}
    assert list(of_entries(one, titles).values()) == ["rope · one process · GQA-2"]
