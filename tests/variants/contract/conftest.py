"""Assertions of the shared helpers are rewritten, so that a failure shows the values."""

import pytest

pytest.register_assert_rewrite("contract.cases")
