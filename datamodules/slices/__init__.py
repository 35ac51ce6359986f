"""Cases as batches of axial slices."""
