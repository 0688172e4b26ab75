"""Start runs, watch them and show progress: a scheduler that uses one way of starting a run."""
