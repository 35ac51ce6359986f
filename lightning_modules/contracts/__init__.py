"""Interfaces between models, callbacks and data, and the settings that commands apply."""
