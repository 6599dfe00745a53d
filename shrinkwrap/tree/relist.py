"""The listing of an export after the fact."""

from __future__ import annotations

from shrinkwrap.record.listing import entry_line
from shrinkwrap.record.record import Goal
from shrinkwrap.snapshot.catalogs import CatalogStore
from shrinkwrap.snapshot.view import Report, View
from shrinkwrap.snapshot.walk import Walk, bring_catalogs
from shrinkwrap.spec.matcher import Matcher
from shrinkwrap.tree.aim import nodes
from shrinkwrap.tree.run import Run
from shrinkwrap.tree.summing import open_summaries


def relist(run: Run, goal: Goal, catalogs: CatalogStore, summary: str) -> None:
    """Give the accounts the whole listing: from summaries, or from the catalogs where one of them is missing.

    Args:
        summary: key of the root's.

    Raises:
        ShrinkwrapError: catalogs that are needed are not to be had. OSError: the listing cannot be written.
    """
    summaries = open_summaries(run.base)
    if summaries.whole(summary):
        run.accounts.relist(summaries.listing(summary))
        return
    matcher = Matcher(run.request.spec)
    bring_catalogs(catalogs, goal.root, matcher)
    walk = Walk(catalogs, goal.root, matcher)
    view = View(goal.view, run.request.variables, Report())
    for _ in nodes(walk, view, lambda entry, node: run.accounts.show(entry_line(entry, node.target))):
        continue
