"""Ask the other ranks of a run whether they live, over the store of the process group."""

import contextlib
import math
import threading
import time

from harness.distributed.process_group import DistributedContext, Store


class RollCall:
    """Ranks that ask each other: each counts its questions in the store, which answers the others.

    A count that has grown since this rank last asked is an answer.
    """

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}  # by rank
        self._answered_at: dict[int, float] = {}  # by rank, on the monotonic clock
        self._asking: threading.Thread | None = None

    def ask(self, context: DistributedContext) -> None:
        """Ask once, in a thread: a request to a store that is cut off does not return."""
        if context.store is None or (self._asking is not None and self._asking.is_alive()):
            return
        arguments = (context.store, context)
        self._asking = threading.Thread(target=self._ask, args=arguments, daemon=True)
        self._asking.start()

    def has_answered(self, rank: int, within_s: float) -> bool:
        """Return whether a rank has answered in the last `within_s` seconds."""
        return time.monotonic() - self._answered_at.get(rank, -math.inf) <= within_s

    def _ask(self, store: Store, context: DistributedContext) -> None:
        with contextlib.suppress(RuntimeError):  # the store may end with the host of rank 0
            store.add(f"questions/{context.rank}", 1)
            for rank in range(context.world_size):
                count = store.add(f"questions/{rank}", 0)
                if count > self._counts.setdefault(rank, count):
                    self._counts[rank] = count
                    self._answered_at[rank] = time.monotonic()
