"""The code that computes a run: which files, their hashes, and their archived content."""
