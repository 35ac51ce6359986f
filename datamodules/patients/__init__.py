"""Which examinations lie below a folder, and which patient each of them is of."""
