"""Training an experiment and applying trained models: fit, validate, test, predict."""
