"""The command line: one file per command; parses, calls the API, prints; nothing else."""
