"""Layouts: how patients' files are named, and what their label values mean."""
