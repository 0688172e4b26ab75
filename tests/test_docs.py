"""The recipes of docs/studies.md: each is a study that `list` accepts as it stands."""

import json
import re
from pathlib import Path

import pytest

from harness.config import load

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs/studies.md").read_text(encoding="utf-8")
RECIPES = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
NAMES = [re.search(r'name = "(.*)"', recipe)[1] for recipe in RECIPES]


def write_own_corpus(folder):
    """Write the files of the user that a recipe names."""
    lines = "".join(json.dumps({"content": f"document {i} " * 50}) + "\n" for i in range(100))
    (folder / "books.jsonl").write_text(lines, encoding="utf-8")
    (folder / "notes.txt").write_text("a note of a few words\n" * 500, encoding="utf-8")


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_each_recipe_is_a_valid_study(tmp_path, recipe):
    write_own_corpus(tmp_path)
    study = tmp_path / "study.toml"
    study.write_text(recipe.replace('"tinyshakespeare"', '"synthetic"'), encoding="utf-8")
    planned = load(study)
    assert len({spec.entry for spec in planned.runs}) > 1


def test_every_capability_has_a_recipe():
    assert len(RECIPES) >= 6
    text = "".join(RECIPES)
    for section in (
        "[tune]",
        "[ladder]",
        "compare =",
        "optimizer =",
        '"train.lr" =',
        "weight =",
        "superiority =",
        "looks =",
    ):
        assert section in text


def test_the_recipes_name_existing_files():
    names = re.findall(r"\]\((?!https?:|#)([\w./]+)(?:#[\w-]+)?\)", TEXT)
    missing = [name for name in names if not (ROOT / "docs" / name).resolve().exists()]
    assert missing == []
