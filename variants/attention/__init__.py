"""Attention variants, which differ in visible keys and in the form of the key-value heads."""
