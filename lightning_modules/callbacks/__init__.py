"""Callbacks: files and progress of a training, and state for resuming it."""
