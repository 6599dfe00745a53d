"""Verified root catalogs seen through specs: immutable, ordered streams of entries."""
