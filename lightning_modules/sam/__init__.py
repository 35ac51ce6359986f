"""Training of SAM's adapters and of a small SAM encoder."""
