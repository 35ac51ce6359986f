"""Weights from earlier stages and from official files."""
