"""Raw examinations of a hospital: the files of each, and the sequence that each file shows."""
