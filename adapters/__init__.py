"""Adapters between the streams of a frozen foundation model, one paper a file."""
