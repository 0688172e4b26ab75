"""Every variant and every option is tested, and a missing sample is reported."""

import dataclasses

import pytest
from contract.cases import PARTS, cases, varied

from variants import registry
from variants.base import AXES


@pytest.mark.parametrize("axis", AXES)
def test_axis_has_its_default_and_only_its_variants(axis):
    assert AXES[axis].default in registry.files(axis)
    for name in registry.files(axis):
        cls = registry.load(axis, name)
        assert issubclass(cls, AXES[axis].base)
        assert cls.Options.__dataclass_params__.frozen, (
            f"{name}: options must not change after parsing"
        )


@pytest.mark.parametrize("axis", PARTS)
def test_every_option_has_a_second_value(axis):
    """A new option without a second value is not wrong, only untested, which the skip shows."""
    tried = [*cases(axis), *varied(axis)]
    untried = []
    for cls in {case.cls for case in tried}:
        for option in dataclasses.fields(cls.Options):
            values = [
                getattr(case.options, option.name)
                for case in tried
                if case.cls is cls and case.options
            ]
            if not option.metadata.get("conversion") and all(
                value == option.default for value in values
            ):
                untried.append(f"{cls.__name__}.{option.name}")
    if untried:
        pytest.skip(f"no case changes {', '.join(sorted(untried))}: add a value to VARIATIONS")


def test_missing_sample_says_what_to_add(tmp_path, monkeypatch):
    """A user who adds a variant with a required option must learn where to add its sample."""
    (tmp_path / "attention").mkdir()
    (tmp_path / "attention" / "odd.py").write_text(
        "from dataclasses import dataclass\n"
        "from variants.attention.mha import MultiHead\n"
        "class Odd(MultiHead):\n"
        "    @dataclass(frozen=True)\n"
        "    class Options:\n"
        "        n_odd: int\n"
    )
    (cls,) = [registry.load("attention", "odd", [tmp_path])]
    monkeypatch.setattr(registry, "files", lambda axis: {"odd": tmp_path / "attention" / "odd.py"})
    monkeypatch.setattr(registry, "load", lambda axis, name: cls)
    (case,) = cases("attention")
    with pytest.raises(
        pytest.fail.Exception, match=r"odd.py: \['n_odd'\] has no default; add a sample"
    ):
        case.make(layer=0)
