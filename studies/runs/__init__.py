"""Runs: identity, folder, stages that come first, and checkpoints found again."""
