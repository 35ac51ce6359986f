"""Cases as batches of 3D patches and whole volumes."""
