"""What code of a variant changes for all others is found; what others change is not its fault."""

import os
import sys

import pytest
import torch

from variants import activity
from variants.errors import full_text, text_of
from variants.global_state import guarded, restored


def test_another_folder_is_a_change_and_is_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with restored() as changes:
        os.chdir("/")
    assert os.getcwd() == str(tmp_path)
    assert str(changes).startswith("changes the present folder (os.chdir), which all variants")


def test_a_folder_that_is_renamed_is_no_change(tmp_path, monkeypatch):
    """As by a user, while a run trains in it."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    with restored() as changes:
        (tmp_path / "project").rename(tmp_path / "renamed")
    assert not changes
    assert os.getcwd() == str(tmp_path / "renamed")


def test_a_removed_folder_is_no_change(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    (tmp_path / "project").rmdir()
    with restored() as changes:
        pass
    assert not changes


def test_an_exception_leaves_the_state_as_it_was():
    n_threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), restored() as changes:
        torch.set_num_threads(n_threads + 1)
        sys.stdout = None
        raise ZeroDivisionError
    assert torch.get_num_threads() == n_threads and sys.stdout is not None
    assert changes.names == ["PyTorch's number of threads", "sys.stdout"]


def test_an_activity_is_reported_while_its_code_runs(monkeypatch):
    reported = []
    monkeypatch.setattr(activity, "_listeners", [reported.append])
    with guarded("the check of x"):
        assert reported == ["the check of x"]
    with restored():  # training takes as long as it takes
        pass
    assert reported == ["the check of x", ""]


class Silent(Exception):
    def __str__(self):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Silent(), ""),
        (ValueError("a\udc80"), "a\\udc80"),
        (ValueError("x" * 10**6), "x" * 10**6),
    ],
    ids=["none", "surrogate", "long"],
)
def test_the_text_of_an_error_can_be_shown(error, text):
    assert full_text(error) == text
    assert len(text_of(error)) < 2000
    assert text_of(error)[:900] == text[:900]
