"""Training of what is added to a frozen SAM, and its stored embeddings."""
