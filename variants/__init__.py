"""The variants: a folder for each axis, a file for each variant, whose stem is its name."""
