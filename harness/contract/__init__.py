"""What every variant must satisfy, as checks on a built model or on one part of it.

The tests, the check of a study before it starts, and `python -m harness check` share these checks.
"""
