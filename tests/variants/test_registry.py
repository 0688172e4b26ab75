"""Variants are found by file name, users' files first; unusable files are named."""

import os
import time

import pytest

from variants import registry
from variants.base import AXES
from variants.registry import VariantError

MINE = """from variants.attention.mha import MultiHead

class Mine(MultiHead):
    marker = {marker!r}
"""


def write(folder, name, text, axis="attention"):
    (folder / axis).mkdir(parents=True, exist_ok=True)
    (folder / axis / f"{name}.py").write_text(text)
    return folder


def test_every_shipped_variant_loads():
    """The folder is the only list of variants."""
    for axis in AXES:
        names = {file.stem for file in (registry.SHIPPED / axis).glob("[!_]*.py")}
        assert set(registry.files(axis)) == names
        assert {name: registry.load(axis, name).__module__ for name in names} == {
            name: f"variants.{axis}.{name}" for name in names
        }


def test_user_file_overrides_a_shipped_variant(tmp_path):
    folder = write(tmp_path, "mha", MINE.format(marker="user"))
    assert registry.load("attention", "mha", [folder]).marker == "user"
    assert not hasattr(registry.load("attention", "mha"), "marker")
    assert registry.load("attention", "gqa", [folder]) is registry.load("attention", "gqa")


def test_first_of_several_folders_wins(tmp_path):
    one, two = (write(tmp_path / name, "mine", MINE.format(marker=name)) for name in ("one", "two"))
    assert registry.load("attention", "mine", [one, two]).marker == "one"
    assert registry.load("attention", "mine", [two, one]).marker == "two"


def test_edited_file_is_reloaded(tmp_path):
    """A user edits a variant and tries it again in one session."""
    write(tmp_path, "mine", MINE.format(marker="before"))
    assert registry.load("attention", "mine", [tmp_path]).marker == "before"
    write(tmp_path, "mine", MINE.format(marker="after"))
    later = time.time() + 10
    os.utime(tmp_path / "attention" / "mine.py", (later, later))
    assert registry.load("attention", "mine", [tmp_path]).marker == "after"


def test_private_files_are_not_variants(tmp_path):
    write(tmp_path, "_helpers", "")
    assert registry.files("positional", [tmp_path]) == registry.files("positional")
    assert "_helpers" not in registry.files("attention", [tmp_path])


def test_unknown_name_is_named_with_its_folders():
    with pytest.raises(VariantError, match=r"attention variant no_such_attention: .*/attention"):
        registry.load("attention", "no_such_attention")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "\nimport no_such_module_anywhere\n",
            "2: the import of broken.py raises ModuleNotFoundError: No module named",
        ),
        ("class Broken(\n", "1: the import of broken.py raises SyntaxError"),
        ("x = 1\nx / 0\n", "2: the import of broken.py raises ZeroDivisionError"),
        ("import sys\n\nsys.exit('bye')\n", "3: the import of broken.py raises SystemExit: bye"),
        ("", " must define exactly one subclass of Attention, defines none"),
        ("from variants.attention.mha import MultiHead\n", "defines none"),
        (
            "from variants.base import Positional\n\n\nclass Other(Positional): ...\n",
            "defines only Other (",
        ),
        (MINE.format(marker=1) + "\n\nclass Second(Mine): ...\n", "broken.py:7); move the others"),
    ],
)
def test_unusable_file_is_named_with_the_reason(tmp_path, text, reason):
    """The user must find the file at fault among all that a study names."""
    folder = write(tmp_path, "broken", text)
    with pytest.raises(VariantError) as caught:
        registry.load("attention", "broken", [folder])
    message = str(caught.value)
    assert message.startswith(f"{folder / 'attention' / 'broken.py'}:")
    assert reason in message
