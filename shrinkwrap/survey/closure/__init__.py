"""What a selection needs and does not have: what links lead to, interpreters, libraries, paths of Python.

:mod:`~shrinkwrap.survey.closure.elf` and :mod:`~shrinkwrap.survey.closure.texts` read what a file asks for,
:mod:`~shrinkwrap.survey.closure.places` follows paths as a kernel would, :mod:`~shrinkwrap.survey.closure.close` puts
it together, :mod:`~shrinkwrap.survey.closure.write` makes a specification of it.
"""
