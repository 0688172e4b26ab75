"""Charts of the page, for plotly."""
