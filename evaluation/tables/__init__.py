"""Scores as tables in several formats."""
