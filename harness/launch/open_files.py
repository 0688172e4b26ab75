"""The number of files that this process may open at once: raised if allowed, and checked."""

import resource

from harness.errors import Problem, UserError
from harness.system_limits import MORE_FILES

MIN_FILES = 32  # of a command that imports torch
ENOUGH = 4096  # the soft limit is not raised further
LAUNCH_FILES = 40  # of a launch without its ranks; 25 were measured, and others open for a moment
RANK_FILES = 8  # more for each rank; 6 were measured in this process, 4 in each other rank


def raise_limit() -> None:
    """Raise the soft limit of open files as far as the hard one allows; processes inherit it.

    Raises:
        UserError: the limit is too low for any command.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    if soft != resource.RLIM_INFINITY and soft < MIN_FILES:
        raise UserError(f"this process may open {soft} files at once, too few: {MORE_FILES}")


def check_open_files(n_ranks: int) -> list[Problem]:
    """Return why this process could not start so many ranks at once."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = LAUNCH_FILES + RANK_FILES * n_ranks
    if limit == resource.RLIM_INFINITY or limit >= need:
        return []
    ranks = "a rank needs" if n_ranks == 1 else f"{n_ranks} ranks at once need"
    message = f"{ranks} up to {need} open files, and this process may open {limit}: {MORE_FILES}"
    return [Problem("", message)]
