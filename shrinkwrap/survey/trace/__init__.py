"""Specifications from what a job really touched.

:mod:`~shrinkwrap.survey.trace.tracer`, :mod:`~shrinkwrap.survey.trace.strace` and
:mod:`~shrinkwrap.survey.trace.reading` read records of it, :mod:`~shrinkwrap.survey.trace.policy` makes lines of them.
"""
