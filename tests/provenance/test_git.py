"""Without these, code that git knows nothing of would be recorded as committed."""

import subprocess

import pytest

from harness.provenance import git


@pytest.fixture
def repository(tmp_path, monkeypatch):
    def run(*arguments):
        identity = ("-c", "user.name=n", "-c", "user.email=e@x")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True)

    run("init", "-q")
    (tmp_path / "git.py").write_text("")
    run("add", ".")
    run("commit", "-qm", "x")
    monkeypatch.setattr(git, "__file__", str(tmp_path / "git.py"))
    return tmp_path


def test_changes_of_a_repository_are_known(repository):
    assert git.commit() is not None and git.has_changes() is False
    (repository / "git.py").write_text("x = 1\n")
    assert git.has_changes() is True


@pytest.mark.parametrize("obstacle", ["no git", "no repository", "damaged", "not permitted"])
def test_without_an_answer_of_git_all_is_unknown(
    obstacle, repository, tmp_path_factory, monkeypatch
):
    if obstacle == "no git":
        monkeypatch.setenv("PATH", "")
    elif obstacle == "no repository":
        monkeypatch.setattr(git, "__file__", str(tmp_path_factory.mktemp("outside") / "git.py"))
    elif obstacle == "damaged":
        (repository / ".git/HEAD").write_text("")
        (repository / ".git/index").write_bytes(b"x")
    else:  # the repository of another user
        monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert git.commit() is None and git.has_changes() is None
