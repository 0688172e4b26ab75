"""Options that a variant's file shows without being imported."""

from dataclasses import MISSING, fields

import pytest

from harness.study.axis_names import AXES, SHIPPED, variant_files
from harness.study.options import COMPUTED, REQUIRED, read_defaults, read_title
from variants import registry

VARIANTS = [(axis, name) for axis in AXES for name in variant_files(axis)]


@pytest.mark.parametrize(("axis", "name"), VARIANTS, ids=map("-".join, VARIANTS))
def test_shown_defaults_are_those_of_the_class(axis, name):
    shown = read_defaults(variant_files(axis)[name])
    assert shown is not None
    cls = registry.load(axis, name)
    assert read_title(variant_files(axis)[name]) == registry.own_title(cls)
    options = fields(cls.Options)
    assert list(shown) == [option.name for option in options]
    for option in options:
        if shown[option.name] is COMPUTED:
            continue
        is_required = option.default is MISSING and option.default_factory is MISSING
        assert (shown[option.name] is REQUIRED) == is_required
        assert is_required or shown[option.name] == option.default


def test_variants_are_found_where_they_are_loaded_from(tmp_path):
    own = tmp_path / "mine"
    (own / "attention").mkdir(parents=True)
    (own / "attention" / "mha.py").touch()
    (own / "attention" / "_helper.py").touch()
    for axis in AXES:
        assert variant_files(axis, [own]) == registry.files(axis, [own])
    assert variant_files("attention", [own])["mha"] == own / "attention" / "mha.py"
    assert (SHIPPED / "attention").is_dir()


def test_a_file_that_cannot_be_parsed_shows_no_options(tmp_path):
    file = tmp_path / "attention" / "broken.py"
    file.parent.mkdir()
    file.write_text("class Broken(:")
    assert read_defaults(file) is None
