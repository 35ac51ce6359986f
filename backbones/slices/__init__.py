"""Networks of the 2D study that do not build on SAM, and their parts."""
