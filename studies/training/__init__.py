"""Training an experiment and using what was trained: fit, validate, test, predict."""
