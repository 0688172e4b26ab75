"""MLP: what follows attention in a block, position by position."""
