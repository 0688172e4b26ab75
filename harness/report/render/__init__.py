"""Renderers of a document: Markdown and HTML."""
