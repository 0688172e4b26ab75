"""Checkpoints of GPT-2: the published layout in and out, and the harness's own folder of weights."""
