"""Norm: how the residual stream is normalised before each part of a block."""
