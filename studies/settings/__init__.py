"""Settings as typed on the command line and in YAML files, and what is wrong with them."""
