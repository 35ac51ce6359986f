"""How patients become batches."""
