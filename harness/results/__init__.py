"""Results of runs: the files of results/ and their typed records."""
