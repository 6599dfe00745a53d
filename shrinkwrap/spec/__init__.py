"""Specification files: which paths of a repository are wanted.

:mod:`~shrinkwrap.spec.grammar` reads the lines, :mod:`~shrinkwrap.spec.matcher` answers for one entry after
the other whether it comes out. Nothing here needs a repository. The rules, with a table of cases:
``docs/spec-files.md``.
"""
