"""Studies trained seed by seed, each written down before its first run."""
