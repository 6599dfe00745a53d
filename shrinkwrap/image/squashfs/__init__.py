"""squashfs 4.0: tables from a stream of entries, and reading them back. Knows nothing of repositories."""
