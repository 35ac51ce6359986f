"""Measurements of speed, memory and scores, in one run with a peer; ratios lie in `results/`."""
