"""Logging of runs to Weights & Biases."""
