"""Train every entry of an ablation matrix under torchrun, and turn the results into curves and tables."""
