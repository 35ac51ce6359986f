"""Settings from the command line and from YAML files, and the messages about wrong ones."""
