"""WHAT to run: the study file, read strictly, and the matrix of entries that it spans."""
