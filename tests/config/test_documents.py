"""Masked documents in a study: resolved, hashed, predicted, and refused where not supported."""

import pytest

from harness.config import load
from harness.errors import UserError

pytestmark = pytest.mark.usefixtures("encoding_of_bytes")
SEPARATOR = 256
MASK = ('corpus = "text.txt"', 'corpus = "text.txt"\ntokenizer = "gpt2"\ndocuments = "mask"')
PLAIN = ('corpus = "text.txt"', 'corpus = "text.txt"\ntokenizer = "gpt2"')
CROSS = ('corpus = "text.txt"', 'corpus = "text.txt"\ntokenizer = "gpt2"\ndocuments = "cross"')
MINE = (
    ("seeds =", 'variant_paths = ["mine"]\nseeds ='),
    ('["mha",', '["mha", "own",'),
)


@pytest.fixture
def load_study(write_study):
    """Return a function that loads the study on a text of documents."""

    def load_with(*replacements, attention=None):
        path = write_study(*replacements)
        (path.parent / "text.txt").write_text("To be.<|endoftext|>Or not to be.\n" * 40)
        if attention is not None:
            file = path.parent / "mine/attention/own.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("from variants.attention.mha import MultiHead\n" + attention)
        return load(path)

    return load_with


def test_specs_state_the_separator_and_ids_only_the_mask(load_study):
    """Runs of studies without masked documents would be trained again."""
    plain = load_study(PLAIN).runs
    cross = load_study(CROSS).runs
    masked = load_study(MASK).runs
    assert [run.run_id for run in cross] == [run.run_id for run in plain]
    assert not {run.run_id for run in masked} & {run.run_id for run in plain}
    assert {run.data.separator for run in plain} == {None}
    assert {run.data.documents for run in masked} == {"mask"}
    assert all(run.data.separator == [SEPARATOR] for run in masked)


def test_attention_without_support_is_refused_by_name(load_study):
    """It would attend across documents, and the report would say that it does not."""
    own = "class Own(MultiHead):\n    supports_documents = False\n"
    load_study(*MINE, PLAIN, attention=own)
    with pytest.raises(UserError) as raised:
        load_study(*MINE, MASK, attention=own)
    (problem,) = raised.value.problems
    assert problem.location.endswith("study.toml: data.documents")
    assert "the attention own does not support masked documents" in problem.message
    assert "mine/attention/own.py:2" in problem.message


def test_unknown_kind_of_documents_is_refused(load_study):
    unknown = ('corpus = "text.txt"', 'corpus = "text.txt"\ndocuments = "masked"')
    with pytest.raises(UserError, match=r"data\.documents: 'masked'") as raised:
        load_study(unknown)
    assert "'cross' or 'mask'" in str(raised.value)


def test_documents_are_an_axis_whose_runs_are_those_of_plain_studies(load_study):
    """Both levels must be in one table, and a run of either study must serve in the other."""
    axis = ("[axes]", '[axes]\n"data.documents" = ["cross", "mask"]')
    few = ('positional = ["learned", "rope"]', 'positional = ["learned"]')
    both = load_study(PLAIN, axis, few).runs
    assert len({run.settings_hash for run in both}) == 1
    contents = {"cross": set(), "mask": set()}
    for run in both:
        assert (run.data.separator is None) == (run.data.documents == "cross")
        assert run.axes["data.documents"].options == {"data.documents": run.data.documents}
        contents[run.data.documents].add(run.run_id.rpartition("-")[2])
    assert len(contents["cross"]) == len(contents["mask"]) == len(both) / 2
    for kind, settings in (("cross", PLAIN), ("mask", MASK)):
        plain = {run.run_id.rpartition("-")[2] for run in load_study(settings, few).runs}
        assert plain == contents[kind]
