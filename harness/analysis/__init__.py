"""Statistics of a study's results."""
