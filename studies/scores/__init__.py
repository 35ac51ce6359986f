"""Scores of tested runs and of mask folders, checked to be comparable."""
