"""Without the place of a fault in a variant's file, its author would read the harness's stack."""

import pytest

from variants.errors import USER_PACKAGE, user_line

VARIANT = compile("def embed():\n    raise ValueError('at fault')\n", "mine/slow.py", "exec")


def raised_by_a_variant() -> ValueError:
    names = {"__name__": f"{USER_PACKAGE}.slow"}
    exec(VARIANT, names)
    with pytest.raises(ValueError, match="at fault") as caught:
        names["embed"]()
    return caught.value


def test_the_line_of_an_error_is_that_of_the_variant():
    assert user_line(raised_by_a_variant()) == "mine/slow.py:2"
    assert user_line(ValueError("of the harness")) == ""


def test_the_line_of_a_handlers_error_is_that_of_the_first_error():
    error = RuntimeError("of a handler")
    error.__context__ = raised_by_a_variant()
    assert user_line(error) == "mine/slow.py:2"


class NotComparable(Exception):
    """An exception that cannot be compared."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("n_errors", [1, 2, 5])
def test_a_cycle_of_errors_has_an_end(n_errors):
    errors = [NotComparable() for _ in range(n_errors)]
    for error, context in zip(errors, [*errors[1:], errors[0]], strict=True):
        error.__context__ = context
    assert user_line(errors[0]) == ""
