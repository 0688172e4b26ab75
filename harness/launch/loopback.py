"""The address by which processes of one machine connect, found without resolving a name."""

import socket
from dataclasses import dataclass

import psutil

from harness.errors import UserError

ADDRESSES = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Loopback:
    """An address of the loopback interface, and the interface's name; None: it is not known."""

    address: str
    interface: str | None

    @property
    def endpoint(self) -> str:
        """ADDRESS:PORT of a port that the system chooses."""
        return f"[{self.address}]:0" if ":" in self.address else f"{self.address}:0"


def find_loopback() -> Loopback:
    """Return the loopback address to which this process can connect: of IPv4, otherwise of IPv6.

    Raises:
        UserError: there is none.
    """
    reasons = []
    for family, address in ADDRESSES.items():
        try:
            _connect(family, address)
            return Loopback(address, _interface(address))
        except OSError as error:
            reasons.append(f"{address}: {error.strerror or error}")
    raise UserError(
        "the ranks of a run connect to each other on this machine, which has no loopback address "
        f"({'; '.join(reasons)}): bring the interface up, `ip link set lo up`"
    )


def _connect(family: socket.AddressFamily, address: str) -> None:
    with socket.socket(family) as listener, socket.socket(family) as client:
        listener.bind((address, 0))
        listener.listen(1)
        client.settimeout(TIMEOUT_S)
        client.connect(listener.getsockname())


def _interface(address: str) -> str | None:
    try:
        interfaces = psutil.net_if_addrs()
    except OSError:
        return None
    for name, addresses in interfaces.items():
        if any(own.address == address for own in addresses):
            return name
    return None
