"""Measurements besides the loss: time, memory, FLOPs, communication. No probe is active during a timed step."""
