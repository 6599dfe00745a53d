"""``python -m shrinkwrap``."""

from shrinkwrap.cli.main import run

run()
