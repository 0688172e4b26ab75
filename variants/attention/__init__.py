"""Attention: which keys a query sees, and how many key-value heads there are."""
