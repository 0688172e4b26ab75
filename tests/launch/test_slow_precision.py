"""A person who expects bf16 to be fast learns before hours of training that it is not."""

from types import SimpleNamespace

import pytest

from harness.launch.slow_precision import cpu_features, slow_precision

ZEN2 = {"fma", "avx2"}


def run(precision, device="cpu"):
    return SimpleNamespace(train=SimpleNamespace(precision=precision, device=device))


@pytest.mark.parametrize(
    ("runs", "features", "warns"),
    [
        pytest.param([run("fp32"), run("bf16")], ZEN2, True, id="one of two runs"),
        pytest.param([run("fp32")], ZEN2, False, id="fp32"),
        pytest.param([run("bf16", "cuda")], ZEN2, False, id="GPU"),
        pytest.param([run("bf16")], ZEN2 | {"avx512_bf16"}, False, id="AVX512-BF16"),
        pytest.param([run("bf16")], ZEN2 | {"amx_bf16"}, False, id="AMX"),
        pytest.param([run("bf16")], {"asimd", "bf16"}, False, id="Arm"),
        pytest.param([run("bf16")], set(), False, id="unknown"),
        pytest.param([], ZEN2, False, id="no run"),
    ],
)
def test_bf16_on_a_cpu_without_it_warns(runs, features, warns):
    message = slow_precision(runs, features)
    assert (message is not None) is warns
    assert not warns or "neither AMX nor AVX512-BF16" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "processor\t: 0\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nflags\t\t: other\n",
            {"fpu", "avx2"},
        ),
        ("Features\t: asimd bf16\n", {"asimd", "bf16"}),
        ("model name\t: x\n", set()),
    ],
)
def test_features_are_those_of_the_first_core(tmp_path, text, expected):
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_features(tmp_path / "cpuinfo") == expected
    assert cpu_features(tmp_path / "none") == set()
