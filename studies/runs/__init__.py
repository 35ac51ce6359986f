"""Runs: identity, folder, upstream stages, and the search for trained checkpoints."""
