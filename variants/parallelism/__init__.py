"""Parallelism: how a run is spread over processes. It changes speed and memory and nothing else."""
