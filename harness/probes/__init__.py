"""Measurements besides the loss. No probe is active during a timed step."""
