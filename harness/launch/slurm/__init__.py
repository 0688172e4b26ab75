"""Start runs with Slurm, by its own commands."""
