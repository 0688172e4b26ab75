"""The nodes over which the ranks of one run are distributed."""

import contextlib
import socket
from dataclasses import dataclass


@dataclass(frozen=True)
class Nodes:
    """Node `index`, this machine, of the `count` that train one run with as many ranks each.

    `endpoint` is HOST:PORT of node 0, where the nodes meet: the port must be free there.
    `rendezvous_id` must be another one for each attempt.
    """

    index: int
    count: int
    endpoint: str
    rendezvous_id: str

    @property
    def own_address(self) -> str:
        """An address of this machine that the other nodes can reach.

        Node 0 has that of the endpoint. Another node has the one from which it reaches node 0: its
        host name may mean nothing on the others.
        """
        host, _, port = self.endpoint.rpartition(":")
        if self.index == 0:
            return host
        with contextlib.suppress(OSError):
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(address)  # sends nothing
                return str(probe.getsockname()[0])
        return socket.gethostname()
