"""The subcommands of `lightning` around trained models, one a file."""
