"""Naming of patients' files and meaning of their labels, in every layout that is read."""
