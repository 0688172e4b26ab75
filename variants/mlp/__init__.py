"""MLPs, which follow attention in a block and transform each position independently."""
