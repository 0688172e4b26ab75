"""Processes of one run: the process group and how parameters are sharded over it."""
