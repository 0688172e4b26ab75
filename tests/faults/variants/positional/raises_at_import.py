"""Divides by zero when it is imported.

refused: raises_at_import.py:6, ZeroDivisionError
"""

SCALE = 1 / 0
