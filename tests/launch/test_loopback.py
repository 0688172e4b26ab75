"""Without these, ranks could wait for an address that this machine does not have."""

import errno
import socket

import pytest

from harness.errors import UserError
from harness.launch import loopback
from harness.launch.loopback import Loopback, find_loopback
from harness.launch.nodes import Nodes


@pytest.fixture
def reachable(monkeypatch):
    """Return a function that makes these families the only ones with a loopback address."""

    def allow(*families: socket.AddressFamily) -> None:
        def connect(family, address):
            if family not in families:
                raise OSError(errno.ENETUNREACH, "Network is unreachable")

        monkeypatch.setattr(loopback, "_connect", connect)

    return allow


def test_the_address_of_ipv4_comes_first(reachable):
    reachable(socket.AF_INET, socket.AF_INET6)
    assert find_loopback().endpoint == "127.0.0.1:0"


def test_the_address_of_ipv6_is_enough(reachable):
    reachable(socket.AF_INET6)
    endpoint = find_loopback().endpoint
    assert endpoint == "[::1]:0" and Nodes(0, 1, endpoint, "x").address == "::1"


def test_no_address_is_an_error_with_its_remedy(reachable):
    reachable()
    with pytest.raises(UserError, match=r"127\.0\.0\.1: Network is unreach.*`ip link set lo up`"):
        find_loopback()


def test_no_name_is_resolved(monkeypatch):
    """The name of this host, and `localhost`, may have no address, or a wrong one."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("a name is resolved"))
    found = find_loopback()
    assert isinstance(found, Loopback) and found.interface is not None
