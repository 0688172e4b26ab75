"""A text of brackets is plain text, not an exception."""

from harness.data import formats


def test_a_text_of_brackets_is_not_json():
    assert formats.problem_of_text(b"[" * 100_000 + b"]") is None
