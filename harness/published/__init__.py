"""Checkpoints in the layouts of `transformers`: one module for each layout, and what they share."""
