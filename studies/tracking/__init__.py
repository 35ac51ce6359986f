"""Weights & Biases around a run."""
