"""The command line, one module a subcommand. `edgekiln.cli` imports the one that runs."""
