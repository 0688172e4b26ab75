"""The variants: a folder is an axis, a file is a variant, its stem is the name that a study uses."""
