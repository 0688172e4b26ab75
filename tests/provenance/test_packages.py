"""A package that was installed from a folder or by git cannot be restored from its version."""

import json
from importlib import metadata

import pytest

from harness.provenance import archive


@pytest.mark.parametrize(
    ("origin", "line"),
    [
        (None, "mine==1.2"),
        ({"url": "file:///src/mine", "dir_info": {"editable": True}}, "mine @ file:///src/mine"),
        ({"url": "https://h/mine", "vcs_info": {"commit_id": "abc"}}, "mine @ https://h/mine@abc"),
    ],
)
def test_packages_are_listed_with_their_origin(tmp_path, monkeypatch, origin, line):
    (tmp_path / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.2\n")
    if origin is not None:
        (tmp_path / "direct_url.json").write_text(json.dumps(origin))
    package = metadata.PathDistribution(tmp_path)
    monkeypatch.setattr(metadata, "distributions", lambda: [package])
    assert archive.installed_packages() == f"{line}\n"


@pytest.mark.parametrize("order", [1, -1])
def test_a_package_in_development_is_listed_once(tmp_path, monkeypatch, order):
    """Else the list would depend on the folder in which a command is started."""
    packages = []
    for folder in (tmp_path / "a.egg-info", tmp_path / "b.dist-info"):
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.2\n")
        packages.append(metadata.PathDistribution(folder))
    (tmp_path / "b.dist-info/direct_url.json").write_text(json.dumps({"url": "file:///src/mine"}))
    monkeypatch.setattr(metadata, "distributions", lambda: packages[::order])
    assert archive.installed_packages() == "mine @ file:///src/mine\n"
