"""What needs a specification and, mostly, a repository, but neither a destination nor an object.

:mod:`~shrinkwrap.survey.plan` sums up what an export would be. :mod:`~shrinkwrap.survey.lint`,
:mod:`~shrinkwrap.survey.layout` and :mod:`~shrinkwrap.survey.explain` are about single lines: which of them decide
nothing, how they are best written, which one decides about a path. All of it is read from signed catalogs alone.
:mod:`~shrinkwrap.survey.closure` finds what a selection needs and lacks; it is given the contents of programs to look
into.
"""
