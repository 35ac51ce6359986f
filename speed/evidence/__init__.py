"""Studies whose statements were written down before the first run, trained seed by seed."""
