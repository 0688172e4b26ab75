"""Random numbers of tensor parallelism: other ones on each rank where ranks compute other values.

The processes of a group share the random numbers of a step, so that they drop the same elements of
replicated activations. Between a column-parallel and a row-parallel layer each process has its own
heads or channels, whose dropout masks must be independent (Shoeybi et al. 2019, appendix B.2).
"""

import torch
from torch import Tensor, nn

MULTIPLIER = 1_000_003
MAX_SEED = 2**62


class RankRandom:
    """Random numbers of this rank only, between `enter` and `leave`.

    The seed is drawn from the random numbers that the processes share, so that it is different for
    each region, micro-batch and step, and the same when a run is repeated or resumed. Masks are not
    those of a single process, which draws them for all heads at once.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._shared_state: Tensor | None = None

    def surround(
        self, part: nn.Module, column_parallel: list[nn.Module], row_parallel: list[nn.Module]
    ) -> None:
        """Use this rank's random numbers from each column-parallel to the next row-parallel layer.

        Without layers of a kind, from the input or to the output of the part.
        """

        def enter(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if part.training:
                self.enter(args[0].device)

        def leave(module: nn.Module, args: tuple[Tensor, ...], output: object) -> None:
            self.leave(args[0].device)

        # The state of a generator cannot be traced.
        for module in column_parallel or [part]:
            module.register_forward_pre_hook(torch.compiler.disable(enter))
        for module in (*row_parallel, part):
            module.register_forward_hook(torch.compiler.disable(leave))

    def enter(self, device: torch.device) -> None:
        """Save the shared state of the generator and seed it for this rank, unless it is done."""
        if self._shared_state is not None:
            return
        seed = int(torch.randint(MAX_SEED, ()).item())  # on the CPU, whatever the device
        rank_seed = (seed * MULTIPLIER + self._rank) % MAX_SEED
        if device.type == "cuda":
            self._shared_state = torch.cuda.get_rng_state(device)
            torch.cuda.manual_seed(rank_seed)
        else:
            self._shared_state = torch.get_rng_state()
            torch.default_generator.manual_seed(rank_seed)

    def leave(self, device: torch.device) -> None:
        """Restore the shared state, if it was saved."""
        if self._shared_state is None:
            return
        if device.type == "cuda":
            torch.cuda.set_rng_state(self._shared_state, device)
        else:
            torch.set_rng_state(self._shared_state)
        self._shared_state = None
