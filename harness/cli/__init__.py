"""The command line: one module per command, built into one application by `app`."""
