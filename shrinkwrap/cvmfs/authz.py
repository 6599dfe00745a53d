"""Repositories that demand authorisation of their readers (FORMAT.md §6.9, ``voms_authz``)."""

from __future__ import annotations

from collections.abc import Mapping

from shrinkwrap.errors import UsageError


def refuse_protected(fqrn: str, properties: Mapping[bytes, bytes]) -> None:
    """Refuse a repository that only members of a group may read.

    Its servers would turn each request away, one object after the other; one clear line comes first.

    Args:
        properties: of the root catalog.

    Raises:
        UsageError: the repository is protected. The message names the membership that it demands.
    """
    demanded = properties.get(b"voms_authz")
    if demanded is None:
        return
    words = ", ".join(ascii(part)[1:-1] for part in demanded[:500].decode("utf-8", "replace").split("\n") if part)
    raise UsageError(
        f"{fqrn} is for authorised readers only (it demands: {words or 'a membership it does not name'}); this program"
        " presents no credentials",
        hint="ask its owner for an export, or name another repository",
    )
