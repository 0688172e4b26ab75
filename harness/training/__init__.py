"""What torchrun starts on every rank: one model, one loop, and the probes that watch it."""
