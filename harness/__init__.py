"""Train every entry of an ablation matrix under torchrun, and turn the results into curves and tables."""

__version__ = "0.2.0"
