"""What the parts of one export share."""

from __future__ import annotations

import os
from contextlib import ExitStack

from shrinkwrap.cvmfs.manifest import Manifest
from shrinkwrap.fetch.types import Source
from shrinkwrap.tree.accounts import Accounts
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.request import ExportRequest, ExportResult, Hooks

#: Notices that are kept and printed.
_KEPT_NOTICES = 1000


class Run:
    """One export of a request.

    Attributes:
        request, hooks: what is asked for, and how to tell of it.
        base: the destination; ``folder``: of the repository's records in it.
        stack: undoes what the run makes for itself.
        own: owners are ours to set (root).
        result: how it ends.
        accounts: what is written of it.
        source: of bytes, when there is one; head: the verified manifest, when there is one.
    """

    def __init__(self, request: ExportRequest, hooks: Hooks, base: Base, stack: ExitStack) -> None:
        self.request = request
        self.hooks = hooks
        self.base = base
        self.fqrn = request.source.fqrn
        self.stack = stack
        self.own = os.geteuid() == 0
        self.result = ExportResult(self.fqrn, base.path)
        self.folder = base.provenance(self.fqrn)
        self.source: Source | None = None
        self.head: Manifest | None = None
        base.make_folder(self.folder, 0o755)
        self.accounts = Accounts(base, self.folder, request, self.result, self.notice, stack)

    def notice(self, line: str) -> None:
        """Tell people, and remember it; a repository cannot make us say more than they would read."""
        said = len(self.result.notices)
        if line in self.result.notices:
            return  # each process finds out about a broken host for itself
        if said < _KEPT_NOTICES:
            self.result.notices.append(line)
            self.hooks.notice(line)
        elif said == _KEPT_NOTICES:
            self.result.notices.append("there was more to say of the same kind")
