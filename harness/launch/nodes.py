"""The nodes over which the ranks of one run are distributed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Nodes:
    """Node `index`, this machine, of the `count` that train one run with as many ranks each.

    `endpoint` is HOST:PORT of node 0, where the nodes meet: the port must be free there.
    `rendezvous_id` must be another one for each attempt. Node 0 has rank 0, the next ranks are on
    node 1, and so on.
    """

    index: int
    count: int
    endpoint: str
    rendezvous_id: str

    @property
    def address(self) -> str:
        """The name under which this node meets the others.

        The rendezvous orders the nodes by their names, and only that of the first one, where rank 0
        is, is an address that others connect to.
        """
        if self.index == 0:
            return self.endpoint.rpartition(":")[0].strip("[]")  # of an IPv6 address
        return f"~{self.index:06}"  # after all addresses
