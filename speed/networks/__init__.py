"""Networks, heads and single predictions, measured."""
