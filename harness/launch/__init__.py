"""HOW runs are started and watched: a queue that feeds one way of starting, and what the user sees meanwhile."""
