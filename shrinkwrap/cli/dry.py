"""What ``export --dry-run`` prints for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shrinkwrap.cli.output import size

if TYPE_CHECKING:
    from shrinkwrap.tree.request import ExportResult


def table(result: ExportResult) -> list[str]:
    """The plan, a line each: what would happen, to how many, and how much."""
    counts, sizes = result.counts, result.bytes
    what = f"{result.fqrn} revision {result.revision}" + (f" ({result.tag})" if result.tag else "")
    download = f"at most {size(sizes['to_fetch'])} uncompressed, about {size(sizes['download'])} to download (estimate)"
    rows = [
        ("fetch", counts["to_fetch"], f"contents, {download}" if counts["to_fetch"] else "contents"),
        ("link", counts["to_link"], "new files and links"),
        ("make", counts["to_make_dirs"], "new directories"),
        ("replace", counts["to_replace"], "paths that changed"),
        ("touch up", counts["to_touch_dirs"], "directories whose metadata changed"),
        ("remove", counts["to_remove"], "paths that are not wanted any more"),
    ]
    width = max(len(f"{number}") for _, number, _ in rows)
    comes_to = (
        f"{counts.get('files', 0)} files, {counts.get('dirs', 0)} directories,"
        f" {counts.get('symlinks', 0)} symbolic links, {counts.get('bytes', 0)} bytes in files"
    )
    return [
        f"{what}, dry run: {'nothing new' if result.reason == 'unchanged' else 'nothing was touched'}",
        *(f"  {name:<9} {number:>{width}}  {words}" for name, number, words in rows),
        f"the tree comes to {comes_to}",
        f"root hash {result.root_hash}",
        f"destination: {result.dest} ({result.abilities})",
    ]
