"""If these failed, a cell would show an interval that contradicts the verdict next to it."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report import formatting

EXACT = [
    (formatting.difference, 0.0, -0.0512, "-0.0512 [-0.1020, 0)", "+0.0512 (0, +0.1020]"),
    (formatting.gain, 0.0, 0.0512, None, "0.0512 (0, 0.1020]"),
    (formatting.change, 0.0, -0.0512, "-4.99 % [-9.70 %, 0 %)", "+5.25 % (0 %, +10.74 %]"),
]


@pytest.mark.parametrize(("show", "null", "value", "below", "above"), EXACT)
def test_an_end_at_no_difference_is_open(show, null, value, below, above):
    if below is not None:
        assert show(-0.0512, -0.102, null) == below
    assert show(0.0512, null, 0.102) == above


def test_a_ratio_is_open_at_one():
    assert formatting.tested_ratio(0.951, 0.902, 1.0) == "0.951 [0.902, 1)"
    assert formatting.tested_ratio(1.05, 1.0, 1.1) == "1.050 (1, 1.100]"


def test_an_exact_difference_has_closed_ends():
    assert formatting.difference(0.0, 0.0, 0.0) == "+0.0000 [+0.0000, +0.0000]"
    assert formatting.tested_ratio(1.0, 1.0, 1.0) == "1.000 [1.000, 1.000]"


def test_a_difference_without_an_interval_is_the_value():
    assert formatting.difference(-0.05) == "-0.0500"
    assert formatting.tested_ratio(None) == formatting.MISSING


@pytest.mark.parametrize(
    ("show", "null"),
    [
        (formatting.difference, 0.0),
        (formatting.gain, 0.0),
        (formatting.change, 0.0),
        (formatting.tested_ratio, 1.0),
    ],
)
@given(
    nearest=st.floats(1e-9, 0.5),
    width=st.floats(1e-9, 0.5),
    is_below=st.booleans(),
)
def test_no_rounding_hides_that_an_interval_excludes_zero(show, null, nearest, width, is_below):
    """An interval from 0.00001 to 0.1 that reads `[0.0000, 0.1000]` seems to include 0."""
    near = -nearest if is_below else nearest
    far = near - width if is_below else near + width
    text = show(null + far, *sorted((null + near, null + far)))
    ends = [float(end) for end in re.findall(r"-?\+?\d[\d.]*(?:e[-+]\d+)?", text.split(" ", 1)[1])]
    sign = -1 if is_below else 1
    assert all(math.copysign(1, end - null) == sign and end != null for end in ends), text


@pytest.mark.parametrize(
    ("numbers", "cell", "sentence"),
    [
        ((19, 7, 60), "19 (7 to 60)", "about 19 seeds (7 to 60)"),
        ((19, 7, None), "19 (7 or more)", "about 19 seeds (7 or more)"),
        ((4, 4, 4), "4", "about 4 seeds"),
        ((None, 40, None), "more than 10,000 (40 or more)", "more than 10,000 seeds (40 or more)"),
        ((None, None, None), "more than 10,000", "more than 10,000 seeds"),
    ],
)
def test_seeds_needed_are_shown_with_their_interval(numbers, cell, sentence):
    """A number alone would seem certain: at 3 seeds a true 19 is estimated as 5 to 516."""
    assert formatting.seeds_needed(*numbers) == cell
    assert formatting.seeds_needed(*numbers, unit="seeds") == sentence


@pytest.mark.parametrize(
    ("show", "value", "expected"),
    [
        (formatting.ratio, 47123.49, "47,123"),
        (formatting.ratio, 18.498, "18.5"),
        (formatting.ratio, 0.00028, "2.8e-04"),
        (formatting.ratio, 0.0, "0.000"),
        (formatting.percent_change, math.log(88.4937), "+8,749 %"),
        (formatting.percent_change, math.log(0.5), "-50.00 %"),
    ],
)
def test_wide_intervals_have_no_false_digits(show, value, expected):
    assert show(value) == expected


def test_a_small_center_of_a_wide_interval_has_no_further_digits():
    """1.000005 [0.094, 10.6] states a precision that the interval does not have."""
    assert formatting.tested_ratio(1.000005, 0.094, 10.6) == "1.000 [0.094, 10.6]"
    assert formatting.difference(4.2e-4, -0.0271, 0.0279) == "+0.0004 [-0.0271, +0.0279]"
    assert formatting.change(2e-5, -0.3, 0.3) == "+0.00 % [-25.92 %, +34.99 %]"
    assert formatting.difference(4.4e-8, -1.8e-7, 2.6e-7) == "+4.4e-08 [-1.8e-07, +2.6e-07]"
    assert formatting.tested_ratio(1.00004, 1.00001, 1.01) == "1.00004 [1.00001, 1.010]"
