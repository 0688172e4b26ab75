"""`python -m harness`."""

import signal
import sys

ELEMENT = "_element"  # the command of batch scripts, see `harness.cli.element`

if __name__ == "__main__":
    if sys.argv[1:2] == [ELEMENT]:
        # Slurm's signals wait until the command handles them: imports take a while.
        numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

    from harness.cli.app import main

    main()
