"""Normalization of the residual stream before each part of a block."""
