"""Positional encodings: how the model knows of order."""
