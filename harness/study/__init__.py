"""The study file: its schema and the axes, entries and rules that it states, without torch."""
