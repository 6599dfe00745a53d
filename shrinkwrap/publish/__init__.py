"""A small publisher: directories and archives become signed repositories (docs/publishing.md).

What is public is imported when it is first asked for, so that serving a repository does not cost what publishing does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from shrinkwrap.publish.cut import ChunkLimits as ChunkLimits
    from shrinkwrap.publish.publisher import publish as publish
    from shrinkwrap.publish.request import Published as Published
    from shrinkwrap.publish.request import PublishHooks as PublishHooks
    from shrinkwrap.publish.source import SourceEntry as SourceEntry

_HOMES: Final = {
    "ChunkLimits": "cut",
    "PublishHooks": "request",
    "Published": "request",
    "SourceEntry": "source",
    "publish": "publisher",
}

__all__ = ["ChunkLimits", "PublishHooks", "Published", "SourceEntry", "publish"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
