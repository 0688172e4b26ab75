"""Parallelisms, which distribute a run over processes without changing the trained model."""
