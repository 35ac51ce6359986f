"""Scores of tested runs and of folders of masks, checked to be comparable."""
