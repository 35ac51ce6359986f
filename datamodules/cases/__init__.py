"""One examination checked, prepared and kept in the cache."""
