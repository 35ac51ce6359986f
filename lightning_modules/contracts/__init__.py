"""What a model, its callbacks and its data ask of each other, and what a command sets on it."""
