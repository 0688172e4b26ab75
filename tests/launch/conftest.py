"""Fixtures for tests of the launcher: the command line in a temporary folder."""

from collections.abc import Iterator

import pytest
from command_line import Harness


@pytest.fixture(scope="module")
def harness(tmp_path_factory) -> Iterator[Harness]:
    harness = Harness(tmp_path_factory.mktemp("harness"))
    yield harness
    harness.stop()


@pytest.fixture
def new_harness(tmp_path) -> Iterator[Harness]:
    harness = Harness(tmp_path)
    yield harness
    harness.stop()
