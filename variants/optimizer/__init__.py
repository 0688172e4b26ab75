"""Optimizers, which map parameters to a torch optimizer."""
