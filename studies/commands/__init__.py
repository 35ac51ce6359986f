"""The subcommands of `lightning` that train, test, compare and report, one a file."""
