"""Scores of one patient, and their means over patients."""
