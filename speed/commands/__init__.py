"""Whole commands and steps of the paper's scale, measured."""
