"""A study with masked documents is refused if an attention claims the mask and ignores it."""

import pytest
import tiktoken
from gallery import GALLERY

DATA = ('corpus = "text.txt"', 'corpus = "text.txt"\ntokenizer = "gpt2"\ndocuments = "mask"')


@pytest.fixture
def masked(study, monkeypatch):
    """Return a study with masked documents and a tokenizer of bytes with a separator."""
    made = tiktoken.Encoding(
        "gpt2",
        pat_str=r"(?s:.)",
        mergeable_ranks={bytes([value]): value for value in range(256)},
        special_tokens={"<|endoftext|>": 256},
    )
    monkeypatch.setattr(tiktoken, "get_encoding", lambda _: made)
    (study.harness.folder / "text.txt").write_text("the old cat.<|endoftext|>the owl.\n" * 100)
    return study


def test_attention_that_ignores_documents_is_refused(masked):
    """Its runs would be reported as masked. Without a mask it is an ordinary variant."""
    masked.write(GALLERY, attention='["mha", "ignores_documents"]')
    masked.run("--dry-run")
    masked.path.write_text(masked.path.read_text().replace(*DATA))
    printed = masked.run("--dry-run", code=2)
    assert "learned-ignores_documents" in printed and "learned-mha" not in printed
    assert "documents: h.0.attn (AllDocuments" in printed
    assert "depends on document" in printed and not masked.has_results
    masked.run("--dry-run", "--where", "attention=mha")
